"""A student as a model that MLflow knows: on its run's Models tab and in the experiment's, with its scores.

The model is `mlflow_model.py` with the student's safetensors: loading it runs that code and unpickles nothing.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking import provenance
from pipeline.tracking.store import flatten, milliseconds
from tsdsr.files import read_json, sha256_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE = Path(__file__).with_name("mlflow_model.py")
DIGEST_TAG = "student.sha256"
NEEDS = ("torch", "diffusers", "peft", "safetensors")
MAX_VALUE_LENGTH = 250  # of a model's params and tags


def describe(
    name: str, student: Path, config: Mapping[str, str], metrics: Mapping[str, float], dataset: Mapping[str, str]
) -> dict[str, Any]:
    """All that `log` needs beside the files, as JSON-like values."""
    weights = {path.name: sha256_file(path) for path in sorted(student.glob("*.safetensors"))}
    return {
        "name": name,
        "digest": provenance.hash_values(weights),
        "config": dict(config),
        "params": flatten(read_json(student / "student.json")),
        "tags": {"git.commit": provenance.git_commit()},
        "metrics": dict(metrics),
        "stamp": milliseconds(),
        "dataset": dict(dataset),
    }


def log(client: MlflowClient, run_id: str, student: Path, values: Mapping[str, Any]) -> None:
    """Log the student as an output of a run, once, and its scores as that model's.

    Args:
        student: a student directory.
        values: of `describe`.
    """
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    model_id = _known(client, run, values["digest"]) or _create(client, run, student, values)
    data = values["dataset"]
    scores = [
        Metric(key, value, values["stamp"], 0, model_id, data["name"], data["digest"], run_id)
        for key, value in values["metrics"].items()
    ]
    client.log_batch(run_id, metrics=scores)


def _known(client: MlflowClient, run: Any, digest: str) -> str | None:
    """The model that this run has logged for the same weights."""
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in outputs:
        if client.get_logged_model(output.model_id).tags.get(DIGEST_TAG) == digest:
            return str(output.model_id)
    return None


def _create(client: MlflowClient, run: Any, student: Path, values: Mapping[str, Any]) -> str:
    from mlflow.entities import LoggedModelOutput

    tags = {DIGEST_TAG: values["digest"], **{key: str(value) for key, value in values["tags"].items()}}
    model = client.create_logged_model(
        run.info.experiment_id,
        name=values["name"],
        source_run_id=run.info.run_id,
        params={key: str(value)[:MAX_VALUE_LENGTH] for key, value in values["params"].items()},
        tags=tags,
        model_type="one-step student",
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(Path(folder, "model"), student, values["config"])
            client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
        except Exception:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def save(folder: Path, student: Path, config: Mapping[str, str]) -> None:
    """Write MLflow's model directory: the code, the student's files, and `config`: teacher and color."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an example input would run the model on every logging
        mlflow.pyfunc.save_model(
            os.fspath(folder),
            python_model=os.fspath(CODE),
            artifacts={"student": os.fspath(student)},
            model_config=dict(config),
            signature=ModelSignature(images, images),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in NEEDS],
        )
