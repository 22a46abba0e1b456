"""A student as a model of its run."""

from __future__ import annotations

import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from pipeline.tracking import runs as tracking
from tests.pipeline.tracking.rig import open_client, runs_of
from tsdsr.config import Params


def _model(params: Params, student: Path, psnr: float) -> Any:
    with tracking.child(params, "full") as run:
        run.dataset("test pairs", "manifest.json", "evaluation")
        run.model(student, {"teacher": "data/teacher"}, {"test/psnr": psnr}, "test pairs", "manifest.json")
    run = runs_of(params)["full"]
    return run, [open_client().get_logged_model(output.model_id) for output in run.outputs.model_outputs]


def test_a_student_is_a_model_of_its_run_with_its_scores(params: Params, student: Path) -> None:
    run, (model,) = _model(params, student, 20.0)
    assert (model.name, model.status, model.source_run_id) == ("full", "READY", run.info.run_id)
    assert model.params["lora.rank"] == "8"
    (score,) = model.metrics
    assert (score.key, score.value, score.dataset_name) == ("test/psnr", 20.0, "test pairs")
    assert run.data.metrics == {"test/psnr": 20.0}

    _, (same,) = _model(params, student, 21.0)  # scored again: the model stays, its score is new
    assert same.model_id == model.model_id
    assert max(same.metrics, key=lambda metric: metric.timestamp).value == 21.0

    (student / "vae.safetensors").write_text("other weights")
    _, models = _model(params, student, 22.0)
    assert len(models) == 2


def test_a_logged_model_is_code_and_safetensors_and_nothing_to_unpickle(params: Params, student: Path) -> None:
    _, (model,) = _model(params, student, 20.0)
    folder = Path(urllib.request.url2pathname(urllib.parse.urlparse(model.artifact_location).path))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"mlflow_model.py", "student.json", "vae.safetensors"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    record = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert record["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert record["config"] == {"teacher": "data/teacher"}
