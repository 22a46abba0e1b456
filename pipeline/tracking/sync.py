"""Copies runs of the repository's store to the server that MLFLOW_TRACKING_URI names, if the server lacks them.

Runs are matched by key and name, so that several repositories and hosts can add to one run.
"""

from __future__ import annotations

import logging
import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from pipeline.tracking import model, store
from tsdsr import machine

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
COPIED_TAG = "tsdsr.copied_to"  # tag of a local run: the server with a complete copy
FILES_TAG = "tsdsr.files_until"  # tag of a copied run: when its files were copied, in seconds
BATCH = 100  # limit of params, tags and metrics in one call
_AWAY: set[str] = set()  # servers that failed; each is tried once per process


def server() -> str:
    """The server's address, or None."""
    return os.environ.get(URI_VARIABLE, "")


def waiting(root: Path) -> list[str]:
    """The ids of the runs that the server lacks or has in part, oldest first, so parents come before children."""
    client, done = store.client(root), machine.without_passwords(server())
    experiments = [found.experiment_id for found in client.search_experiments()]
    waiting: list[str] = []
    token = None
    while True:
        page = client.search_runs(experiments, order_by=["attributes.start_time ASC"], page_token=token)
        for run in page:
            if store.KEY_TAG in run.data.tags and run.data.tags.get(COPIED_TAG) != done:
                waiting.append(run.info.run_id)
        if not (token := page.token):
            return waiting


def copy_or_warn(root: Path, run_id: str | None) -> None:
    """Copy a run to the server, if there is one; a failure is a warning, and the server is not tried again."""
    if not server() or server() in _AWAY or run_id is None:
        return
    try:
        copy(root, run_id)
    except Exception as error:
        if not store.is_failure(error):
            raise
        _AWAY.add(server())
        reason = machine.without_passwords(str(error).partition("\n")[0])[:300]
        logger.warning(
            "%s did not accept the runs (%s); they are kept here, and `python -m pipeline.tracking` copies them later",
            machine.without_passwords(server()),
            reason,
        )


def copy(root: Path, run_id: str) -> None:
    """Copy the missing parts of a run and of its parent to the server.

    Raises:
        Exception: those that `store.is_failure` recognises.
    """
    here, there = store.client(root), _client(server())
    run = here.get_run(run_id)
    twin = _twin(here, there, run)
    _copy_values(here, there, run, twin)
    _copy_files(there, _path(run.info.artifact_uri), twin)
    if run.inputs.dataset_inputs:
        there.log_inputs(twin.info.run_id, run.inputs.dataset_inputs)
    for output in run.outputs.model_outputs if run.outputs else []:
        _copy_model(there, twin, here.get_logged_model(output.model_id))
    if run.info.status == "RUNNING":
        there.update_run(twin.info.run_id, status="RUNNING")
    else:
        there.set_terminated(twin.info.run_id, run.info.status, run.info.end_time)
    here.set_tag(run_id, COPIED_TAG, machine.without_passwords(server()))


def _twin(here: MlflowClient, there: MlflowClient, run: Any) -> Any:
    """The run's copy on the server; it and its parent's are created if necessary."""
    experiment = store.experiment(there, here.get_experiment(run.info.experiment_id).name)
    tags = {key: value for key, value in run.data.tags.items() if key != COPIED_TAG}
    found = store.find(there, experiment, tags[store.KEY_TAG], tags[store.NAME_TAG])
    if found is not None:
        return found
    if parent := tags.get(store.PARENT_TAG):
        tags[store.PARENT_TAG] = _twin(here, there, here.get_run(parent)).info.run_id
    return there.create_run(experiment, start_time=run.info.start_time, tags=tags, run_name=run.info.run_name)


def _copy_values(here: MlflowClient, there: MlflowClient, run: Any, twin: Any) -> None:
    from mlflow.entities import Param, RunTag

    target = twin.info.run_id
    params = [Param(key, value) for key, value in run.data.params.items() if key not in twin.data.params]
    kept = (COPIED_TAG, store.PARENT_TAG)
    tags = [RunTag(key, value) for key, value in run.data.tags.items() if key not in kept]
    metrics = []
    for key in run.data.metrics:
        known = {(point.step, point.timestamp) for point in there.get_metric_history(target, key)}
        history = here.get_metric_history(run.info.run_id, key)
        metrics += [point for point in history if (point.step, point.timestamp) not in known]
    for kind, values in (("params", params), ("tags", tags), ("metrics", metrics)):
        for start in range(0, len(values), BATCH):
            there.log_batch(target, **{kind: values[start : start + BATCH]})


def _copy_files(there: MlflowClient, folder: Path, twin: Any) -> None:
    """Copy the files written since the last time."""
    began, before = time.time(), float(twin.data.tags.get(FILES_TAG, 0))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_ctime > before:
            below = path.parent.relative_to(folder).as_posix()
            there.log_artifact(twin.info.run_id, str(path), None if below == "." else below)
    there.set_tag(twin.info.run_id, FILES_TAG, began)


def _copy_model(there: MlflowClient, twin: Any, student: Any) -> None:
    from mlflow.entities import Metric

    target = model.find(there, twin, student.tags[model.DIGEST_TAG]) or model.create(
        there, twin, student.name, student.params, _own(student.tags), _path(student.artifact_location)
    )
    scores = [
        Metric(m.key, m.value, m.timestamp, m.step, target, m.dataset_name, m.dataset_digest, twin.info.run_id)
        for m in student.metrics or []
    ]
    for start in range(0, len(scores), BATCH):
        there.log_batch(twin.info.run_id, metrics=scores[start : start + BATCH])


def _own(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


def _path(place: str) -> Path:
    """The folder of a local file URI."""
    return Path(url2pathname(urlparse(place).path))


@cache
def _client(uri: str) -> MlflowClient:
    """Shorten MLflow's retries, with which a server that is down would block every call for four minutes."""
    for name, value in (("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "10")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
