"""A student as an MLflow model: on the Models tab of its run and of the experiment, with its scores.

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
from tsdsr.config import flatten
from tsdsr.files import read_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE = Path(__file__).with_name("mlflow_model.py")
DIGEST_TAG = "student.sha256"
NEEDS = ("torch", "diffusers", "peft", "safetensors")
MAX_VALUE_LENGTH = 250  # of a model's params and tags


def log(client: MlflowClient, run_id: str, name: str, student: Path, config: Mapping[str, str]) -> str:
    """Log the student as an output of a run, once, and return the model's id.

    Args:
        student: a student directory. config: of `save`.
    """
    weights = {path.name: sha256_file(path) for path in sorted(student.glob("*.safetensors"))}
    digest = sha256_json(weights)
    run = client.get_run(run_id)
    if (known := find(client, run, digest)) is not None:
        return known
    params = {key: str(value)[:MAX_VALUE_LENGTH] for key, value in flatten(read_json(student / "student.json")).items()}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "model"), student, config)
        tags = {DIGEST_TAG: digest, "git.commit": provenance.git_commit()}
        return create(client, run, name, params, tags, Path(folder, "model"))


def find(client: MlflowClient, run: Any, digest: str) -> str | None:
    """The model that this run has logged for the same weights."""
    for output in run.outputs.model_outputs if run.outputs else []:
        if client.get_logged_model(output.model_id).tags.get(DIGEST_TAG) == digest:
            return str(output.model_id)
    return None


def create(
    client: MlflowClient, run: Any, name: str, params: Mapping[str, str], tags: Mapping[str, str], folder: Path
) -> str:
    """A model of the run with the files of `folder`; returns its id."""
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        params=dict(params),
        tags=dict(tags),
        model_type="one-step student",
    )
    try:
        client.log_model_artifacts(model.model_id, str(folder))
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
