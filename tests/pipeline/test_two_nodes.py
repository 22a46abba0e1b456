"""Distillation over two Ray nodes that share nothing but a URL: the losses of one process, and the loss of a node."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import distill, precompute, prepare_degradations, teacher
from pipeline.storage import SHARED
from pipeline.tree_store import TreeStore
from tests.pipeline.two_nodes import HEAD, TwoNodes, wait_for
from tsdsr.config import Params

ROOT = Path(__file__).parents[2]
SECOND, THIRD = "127.0.0.3", "127.0.0.4"
STEPS = 12
CHANGES = {
    "distill": {
        "steps": STEPS,
        "batch_size": 4,
        "num_workers": 2,
        "threads_per_worker": 1,
        "checkpoint": {"every": 2},
        "log_every": 1,
    }
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository that jobs are sent from, with the inputs; it leaves the inputs in `home`/bucket as well."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("pipeline", "tsdsr"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    overlay = yaml.safe_load((ROOT / "params/smoke.yaml").read_text(encoding="utf-8"))
    params = Params.load(ROOT / "params.yaml").overlay(overlay).overlay(CHANGES)
    storage = f"file://{folder}/bucket"
    params = params.overlay({"cluster": {"storage": storage}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        for stage in (prepare_degradations, teacher, precompute):
            patch.setattr("sys.argv", [stage.__name__])
            stage.main()
        for name in ("data/pairs", "data/teacher", "data/latents"):
            TreeStore(storage).push(folder, name)
        yield folder


@pytest.fixture(scope="module")
def cluster(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(home, folder / "code", ignore=lambda _, names: [n for n in names if n in (*SHARED, "bucket")])
    nodes = TwoNodes(folder, folder / "code", {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"})
    try:
        for host in (HEAD, SECOND):
            nodes.start(host)
        yield nodes
    finally:
        nodes.close()


def adapters(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("transformer.safetensors", "vae.safetensors")}


@pytest.mark.repro
@pytest.mark.timeout(400)
def test_two_nodes_train_as_one_and_the_loss_of_one_changes_nothing(
    home: Path, cluster: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, command = home / "bucket", ("python", "-m", "pipeline.distill", "--params", "params.yaml")
    output = cluster.submit(*command).communicate(timeout=200)[0]
    assert "succeeded" in output, output[-6000:]
    undisturbed = adapters(bucket / "data/students/full")
    for host in (HEAD, SECOND):  # each fetched its inputs
        assert list((cluster.folder / f"cache-{host}").glob("tsdsr/mirrors/*/data/latents/manifest.json"))
    with (bucket / "reports/curves/full.csv").open(newline="") as file:
        together = list(csv.DictReader(file))

    monkeypatch.chdir(home)
    params = Params.load("params.yaml").overlay({"distill": {"num_workers": 0}})
    distill.distill(params, out=Path("data/students/alone"), name="alone", seed=params.seed)
    with Path("reports/curves/alone.csv").open(newline="") as file:
        alone = list(csv.DictReader(file))
    assert len(alone) == len(together) == STEPS
    for one, two in zip(alone, together):
        for name, value in one.items():
            if name != "phase" and value:
                assert float(two[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), (one["step"], name)

    shutil.rmtree(bucket / "data/students")
    shutil.rmtree(bucket / ".manifests/data/students")
    job = cluster.submit(*command)
    checkpoint = bucket / ".manifests/.tsdsr/checkpoints/full/step-00000004.json"
    wait_for(checkpoint.is_file, 120, "checkpoint")
    cluster.kill(SECOND)
    assert not (bucket / "data/students/full").exists()
    cluster.start(THIRD)
    output = job.communicate(timeout=200)[0]
    assert "succeeded" in output, output[-6000:]
    assert "resuming after step" in output
    assert list((cluster.folder / f"cache-{THIRD}").glob("tsdsr/mirrors/*/data/latents/manifest.json"))
    assert adapters(bucket / "data/students/full") == undisturbed
    assert not (bucket / ".manifests/.tsdsr/checkpoints/full").is_dir() or not list(
        (bucket / ".manifests/.tsdsr/checkpoints/full").iterdir()
    )
