"""pipeline.distill under Ray Train: two gloo workers against one process, on the same global batches."""

from __future__ import annotations

import csv
import logging
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from pipeline import distill, precompute, prepare_degradations, teacher
from pipeline.cluster import runtime, storage
from pipeline.process.interruption import Interrupted, Request
from pipeline.stages import training
from pipeline.stages.control import Control
from tsdsr.config import Params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the smoke overlay's pairs, teacher and latents."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    overlay = yaml.safe_load((ROOT / "params/smoke.yaml").read_text(encoding="utf-8"))
    params = Params.load("params.yaml").overlay(overlay)
    Path("smoke.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
    for stage in (prepare_degradations, teacher, precompute):
        monkeypatch.setattr("sys.argv", [stage.__name__, "--params", "smoke.yaml"])
        stage.main()
    return tmp_path


def curve(name: str) -> list[dict[str, str]]:
    with Path(f"reports/curves/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("in_ray", "wanted"), [(True, "cuda:3"), (False, "cuda:0")])
def test_each_of_rays_workers_takes_its_own_card(monkeypatch: pytest.MonkeyPatch, in_ray: bool, wanted: str) -> None:
    """Ray shows a node's workers all cards of that node, so that the first one is not everybody's."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda:3"))
    assert training._device("cuda", in_ray=in_ray) == torch.device(wanted)
    assert training._device("cpu", in_ray=in_ray) == torch.device("cpu")


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _image_series(name: str) -> dict[int, Path]:
    """step -> file of the validation images of a run in MLflow."""
    from mlflow import MlflowClient

    # an absolute address: MLflow keeps one engine per address, and a relative one may name the store of another test
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    (run,) = client.search_runs(["1"], f"tags.`tsdsr.name` = '{name}'")
    files = [Path(item.path).name for item in client.list_artifacts(run.info.run_id, "images")]
    folder = Path("mlruns", run.info.run_id, "artifacts/images")
    return {int(file.split("+")[2]): folder / file for file in files if file.endswith(".png")}


@pytest.mark.repro
@pytest.mark.timeout(1800)
def test_two_ray_workers_give_the_losses_of_one_process(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = Params.load("smoke.yaml").overlay({"distill": {"batch_size": 4, "num_workers": 0, "threads_per_worker": 1}})
    together = alone.overlay({"distill": {"num_workers": 2}})
    distill.distill(alone, out=Path("data/students/alone"), name="alone", seed=0)
    distill.distill(together, out=Path("data/students/together"), name="together", seed=0)
    printed = "".join(capfd.readouterr())
    assert "distill alone" in printed
    assert not re.search("TrainingReport|PreemptionWatcher|Token authentication|UserWarning", printed)
    with Path("reports/validation/alone.csv").open(newline="") as file:
        looks = [int(row["step"]) for row in csv.DictReader(file)]
    sheets = _image_series("alone")
    assert sorted(sheets) == looks
    assert np.array_equal(_pixels(sheets[looks[-1]]), _pixels(Path("reports/validation/alone.png")))
    assert not Path(".tsdsr/validation").exists()
    rows = list(zip(curve("alone"), curve("together"), strict=True))
    assert len(rows) == alone.distill.steps
    for one, two in rows:
        assert one.keys() == two.keys()
        for name, value in one.items():
            if value:
                # float32 sums in another order; training amplifies the difference from step to step
                assert float(two[name]) == pytest.approx(float(value), rel=5e-3, abs=1e-6), name
    for file in ("transformer.safetensors", "vae.safetensors"):
        ours, theirs = load_file(f"data/students/alone/{file}"), load_file(f"data/students/together/{file}")
        assert ours.keys() == theirs.keys()
        far = max(float((ours[key] - theirs[key]).norm() / (ours[key].norm() + 1e-6)) for key in ours)
        assert far < 2e-2


def test_a_run_without_enough_hosts_says_what_it_waits_for_and_can_be_ended(
    params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request, ended = Request(), threading.Event()
    looks = iter([None, None, signal.SIGTERM])

    def one_is_left(resource: str) -> float:
        request.signum = next(looks)
        return 1.0

    monkeypatch.setattr(runtime, "start", lambda num_cpus: None)
    monkeypatch.setattr(runtime, "total", one_is_left)
    monkeypatch.setattr(training, "LOOK_AROUND", 0.01)
    two, place = params.overlay({"distill": {"num_workers": 2, "device": "cpu"}}), storage.here(params, {})
    with caplog.at_level(logging.WARNING), pytest.raises(Interrupted, match="SIGTERM: the last checkpoint is kept"):
        training._beside_main_thread(lambda: str(ended.wait()), two, Control(Path("unused")), place, request)
    ended.set()
    assert caplog.text.count("num_workers: 2 needs a CPU for each, and the cluster has 1.") == 1


def test_a_worker_on_another_host_learns_at_the_url_that_it_is_to_stop(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (storage.Place(tmp_path / host, f"file://{tmp_path}/bucket") for host in ("here", "there"))
    driver, worker = (Control(place.root / ".tsdsr/running/full") for place in (here, there))
    for control in (driver, worker):
        control.clear()
    monkeypatch.setattr(runtime, "start", lambda num_cpus: None)
    monkeypatch.setattr(runtime, "total", lambda resource: 1.0)
    monkeypatch.setattr(training, "LOOK_AROUND", 0.01)
    asked, request = training._asked_to_stop(there, worker), Request()
    assert not asked()

    def train() -> str:
        driver.ask_to_stop()
        request.signum = signal.SIGTERM
        while not asked():
            time.sleep(0.01)
        return "its checkpoint is saved"

    one = params.overlay({"distill": {"num_workers": 1, "device": "cpu"}})
    assert training._beside_main_thread(train, one, driver, here, request) == "its checkpoint is saved"
    driver.clear()
    here.push_each(driver.stop.parent)
    time.sleep(0.02)
    assert not asked()
