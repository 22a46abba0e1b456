"""Distillation over two Ray nodes that share nothing but a URL: the losses of one process, and the loss of a node."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import distill, precompute, prepare_degradations, teacher
from pipeline.cluster.tree_store import TreeStore
from tests.pipeline.cluster.two_nodes import HEAD, TwoNodes, wait_for
from tsdsr.config import Params

ROOT = Path(__file__).parents[3]
SECOND, THIRD = "127.0.0.3", "127.0.0.4"
STEPS = 8
CHANGES = {
    "distill": {
        "steps": STEPS,
        "batch_size": 4,
        "num_workers": 2,
        "threads_per_worker": 1,
        "checkpoint": {"every": 2},
        "log_every": 1,
    },
    "teacher": {"threads": 1},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with code and params, without data; the URL in params leads to `home`/bucket."""
    folder = tmp_path / "home"
    for name in ("pipeline", "tsdsr"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    overlay = yaml.safe_load((ROOT / "params/smoke.yaml").read_text(encoding="utf-8"))
    params = Params.load(ROOT / "params.yaml").overlay(overlay).overlay(CHANGES)
    params = params.overlay({"cluster": {"storage": f"file://{folder}/bucket"}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cluster(home: Path, tmp_path: Path) -> Iterator[TwoNodes]:
    folder = tmp_path / "cluster"
    shutil.copytree(home, folder / "code")
    nodes = TwoNodes(folder, folder / "code")
    try:
        nodes.start(HEAD)
        yield nodes
    finally:
        nodes.close()


def push_inputs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pairs, teacher and latents in `home`, and send them to the bucket."""
    for stage in (prepare_degradations, teacher, precompute):
        monkeypatch.setattr("sys.argv", [stage.__name__])
        stage.main()
    for name in ("data/pairs", "data/teacher", "data/latents"):
        TreeStore(f"file://{home}/bucket").push(home, name)


def adapters(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("transformer.safetensors", "vae.safetensors")}


def curve(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.repro
@pytest.mark.timeout(3000)
def test_two_nodes_train_as_one_and_the_loss_of_one_changes_nothing(
    home: Path, cluster: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, command = home / "bucket", ("python", "-m", "pipeline.distill", "--params", "params.yaml")
    push_inputs(home, monkeypatch)  # while the head starts
    cluster.wait(HEAD)
    cluster.start(SECOND)
    cluster.wait(SECOND)
    cluster.finish(cluster.submit("undisturbed", *command), "undisturbed")
    undisturbed, together = adapters(bucket / "data/students/full"), curve(bucket / "reports/curves/full.csv")
    for host in (HEAD, SECOND):  # each fetched its inputs
        assert list((cluster.folder / f"cache-{host}").glob("tsdsr/mirrors/*/data/latents/manifest.json"))

    shutil.rmtree(bucket / "data/students")
    shutil.rmtree(bucket / ".manifests/data/students")
    cluster.hold.write_text("5")  # after five steps, the workers wait
    job = cluster.submit("disturbed", *command)
    wait_for((bucket / ".manifests/.tsdsr/checkpoints/full/step-00000004.json").is_file, "checkpoint")
    cluster.kill(SECOND)
    cluster.hold.unlink()
    assert not (bucket / "data/students/full").exists()
    cluster.start(THIRD)

    params = Params.load("params.yaml").overlay({"distill": {"num_workers": 0}})  # while the workers start again
    distill.distill(params, out=Path("data/students/alone"), name="alone", seed=params.seed)
    alone = curve(Path("reports/curves/alone.csv"))
    assert len(alone) == len(together) == STEPS
    for one, two in zip(alone, together):
        for name, value in one.items():
            if name != "phase" and value:
                # float32 sums in another order
                assert float(two[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), (one["step"], name)

    assert "resuming after step 4 of" in cluster.finish(job, "disturbed")
    assert list((cluster.folder / f"cache-{THIRD}").glob("tsdsr/mirrors/*/data/latents/manifest.json"))
    assert adapters(bucket / "data/students/full") == undisturbed
    assert TreeStore(f"file://{bucket}").names(".tsdsr/checkpoints/full") == []  # the run has ended
