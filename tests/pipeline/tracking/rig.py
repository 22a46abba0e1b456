"""The repository's store, as its tests read it."""

from __future__ import annotations

from typing import Any

from pipeline.tracking import provenance, store
from tsdsr.config import Params


def runs_of(params: Params) -> dict[str, object]:
    """Name -> run of the test's experiment; fails where a name occurs twice."""
    found = open_client()
    experiment = found.get_experiment_by_name(params.tracking.experiment)
    runs = found.search_runs([experiment.experiment_id])
    names = [run.data.tags["tsdsr.name"] for run in runs]
    assert len(set(names)) == len(names), names
    return dict(zip(names, runs))


def open_client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store.uri(provenance.root()))
