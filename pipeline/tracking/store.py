"""The repository's MLflow store, `mlflow.db` (SQLite) and `mlruns/`, and how runs are found or created in it.

It uses `MlflowClient` without a global active run, so that Ray's workers and a driver can log concurrently.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.process.locks import locked
from pipeline.tracking import provenance

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

KEY_TAG = "tsdsr.key"
NAME_TAG = "tsdsr.name"
PARENT = "parent"  # the value of NAME_TAG in a parent run
PARENT_TAG = "mlflow.parentRunId"

# With this kind MLflow opens an experiment on its runs, not on its pages for language models.
KIND = ("mlflow.experimentKind", "custom_model_development")

_NOISY = ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor", "urllib3.connectionpool")
# Columns with locations of files.
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


@dataclass(frozen=True)
class Identity:
    """Identifies a run in any process; with `name` None the parent run."""

    experiment: str
    key: str
    title: str  # the parent's readable name
    name: str | None = None


def is_failure(error: Exception) -> bool:
    """Whether an error is one of a store, a server or the network, not of our own code."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | sqlite3.Error | requests.RequestException | OSError)


def uri(root: Path) -> str:
    return f"sqlite:///{root / 'mlflow.db'}"


@cache
def client(root: Path) -> MlflowClient:
    """A client of the store in `root`, with its tables created and its file locations below `root`.

    Two processes must not create the tables at once.
    """
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with locked(root / ".tsdsr" / "store"):
        made = MlflowClient(tracking_uri=uri(root))
        lead_here(root)
    return made


def lead_here(root: Path) -> None:
    """Move every file location in the store to `root`/mlruns.

    MLflow stores absolute locations, so a moved or copied store would write to its former place; and its experiment
    `Default` has the working directory of the process that created the store.
    """
    here = (root / "mlruns").as_uri()
    with closing(sqlite3.connect(root / "mlflow.db", timeout=60)) as database, database:
        for table, column in _PLACES:
            for row, place in database.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
                before, found, below = (place or "").rpartition("/mlruns")
                is_local = before.startswith(("file:", "/")) and below[:1] in ("", "/")
                if found and is_local and f"{before}/mlruns" != here:
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (here + below, row))


def experiment(client: MlflowClient, name: str, artifacts: Path | None = None) -> str:
    """The id of an experiment, which is created or restored if necessary; `artifacts` is a new one's folder of
    files."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifacts.as_uri() if artifacts else None
        return client.create_experiment(name, artifact_location=location, tags=dict([KIND]))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def find(client: MlflowClient, experiment_id: str, key: str, name: str) -> MlflowRun | None:
    query = f"tags.`{KEY_TAG}` = '{key}' and tags.`{NAME_TAG}` = '{name}'"
    runs = client.search_runs([experiment_id], query, max_results=1)
    return runs[0] if runs else None


def open_run(root: Path, identity: Identity) -> str:
    """The id of the run with this identity; it and its parent are created if necessary."""
    with locked(root / ".tsdsr" / "runs"):  # two processes must not create one run twice
        return _open(client(root), root, identity)


def _open(client: MlflowClient, root: Path, identity: Identity) -> str:
    experiment_id = experiment(client, identity.experiment, root / "mlruns")
    found = find(client, experiment_id, identity.key, identity.name or PARENT)
    if found is not None:
        return found.info.run_id
    tags = {
        KEY_TAG: identity.key,
        NAME_TAG: identity.name or PARENT,
        "mlflow.user": getpass.getuser(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": provenance.stage().command,
    }
    if identity.name is not None:
        tags[PARENT_TAG] = _open(client, root, replace(identity, name=None))
    run = client.create_run(experiment_id, tags=tags, run_name=identity.name or identity.title)
    return run.info.run_id


def clean_name(name: str) -> str:
    """MLflow's names: letters, digits and `_-./: `; anything else becomes `_`."""
    return re.sub(r"[^\w\-./: ]", "_", name)
