"""The only place that talks to MLflow: finds or creates runs, and applies operations to them.

`MlflowClient` alone is used, no global active run, so that Ray's workers and a driver can log side by side. Every call
may raise `StoreUnavailable`; the caller then keeps the operations (see `pipeline.tracking.outbox`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.tracking.outbox import Operation, locked
from tsdsr import machine

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

T = TypeVar("T")
logger = logging.getLogger(__name__)

KEY_TAG = "tsdsr.key"
NAME_TAG = "tsdsr.name"
CODE_TAG = "code.sha256"
PARENT = "parent"  # the value of NAME_TAG in a parent run
MAX_METRICS_A_CALL = 1000  # MLflow's limits for one log_batch
MAX_PARAMS_A_CALL = 100
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 5000


_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")


class StoreUnavailable(Exception):
    """The tracking server did not do what it was asked to."""


@dataclass(frozen=True)
class Identity:
    """Enough to find or create a run from any process: `name` None is the parent run itself."""

    experiment: str
    key: str
    title: str  # the parent's readable name
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def parent(self) -> Identity:
        return Identity(self.experiment, self.key, self.title)


@dataclass
class _Steps:
    """Which steps of a metric the store already has."""

    first: int
    last: int


@dataclass
class Store:
    """Runs in one MLflow store. `uri` as in MLFLOW_TRACKING_URI; `artifacts` is where a local store keeps files."""

    uri: str
    artifacts: Path
    _runs: dict[Identity, str] = field(default_factory=dict)
    _found: set[str] = field(default_factory=set)  # run ids that existed before this process opened them
    _steps: dict[tuple[str, str], _Steps | None] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.uri.startswith("sqlite:")

    def open(self, identity: Identity) -> str:
        """The id of the run with this identity, found or created."""
        return self._guard(lambda: self._open(identity))

    def apply(self, identity: Identity, operation: Operation) -> None:
        """Do one operation: `params`, `tags`, `metrics`, `artifact`, `dataset`, `model` or `status`."""
        handlers: dict[str, Callable[[Identity, Operation], None]] = {
            "params": self._params,
            "tags": self._tags,
            "metrics": self._metrics,
            "artifact": self._artifact,
            "dataset": self._dataset,
            "model": self._model,
            "status": self._status,
        }
        handler = handlers[operation["op"]]
        self._guard(lambda: self._apply(handler, identity, operation))

    def _apply(self, handler: Callable[[Identity, Operation], None], identity: Identity, operation: Operation) -> None:
        from mlflow.exceptions import MlflowException

        for attempt in ("first", "second"):
            try:
                handler(identity, operation)
                return
            except MlflowException as error:
                if error.error_code not in _REFUSALS:
                    raise
                # The run may have been deleted meanwhile: the second attempt finds or creates another.
                self._runs.pop(identity, None)
                if attempt == "second":  # the server is there and will never take this; kept, it would block the rest
                    logger.warning("MLflow refused %s of run %s: %s", operation["op"], identity.name, error.message)

    def _guard(self, call: Callable[[], T]) -> T:
        import requests
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except (MlflowException, requests.RequestException, OSError) as error:
            reason = machine.without_passwords(str(error).partition("\n")[0])
            raise StoreUnavailable(f"{type(error).__name__}: {reason}") from error

    @property
    def _client(self) -> MlflowClient:
        return _client(self.uri, str(self.artifacts.parent))

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = self.artifacts.as_uri() if self.is_local else None
            # The kind makes MLflow's pages open on the runs, not on what they have for language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return self._client.create_experiment(name, artifact_location=location, tags=tags)
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _find(self, identity: Identity) -> MlflowRun | None:
        query = f"tags.`{KEY_TAG}` = '{identity.key}' and tags.`{NAME_TAG}` = '{identity.name or PARENT}'"
        runs = self._client.search_runs([self._experiment(identity.experiment)], query, max_results=1)
        return runs[0] if runs else None

    def _open(self, identity: Identity) -> str:
        if identity in self._runs:
            return self._runs[identity]
        with locked(self.artifacts.parent / ".tsdsr"):  # two processes must not create one run twice
            found = self._find(identity)
            if found is None:
                run_id = self._create(identity)
            else:
                run_id = found.info.run_id
                self._found.add(run_id)
        self._runs[identity] = run_id
        return run_id

    def _create(self, identity: Identity) -> str:
        from pipeline.tracking.provenance import code_hash

        tags = {KEY_TAG: identity.key, NAME_TAG: identity.name or PARENT, CODE_TAG: code_hash()}
        if identity.name is not None:
            parent = self._find(identity.parent())
            tags["mlflow.parentRunId"] = parent.info.run_id if parent else self._create(identity.parent())
        experiment = self._experiment(identity.experiment)
        return self._client.create_run(experiment, tags=tags, run_name=identity.name or identity.title).info.run_id

    def _params(self, identity: Identity, operation: Operation) -> None:
        """A param of a run cannot change: those that are there already keep their value."""
        from mlflow.entities import Param

        run_id = self._open(identity)
        known = self._client.get_run(run_id).data.params
        values = {clean_name(key): str(value)[:MAX_PARAM_LENGTH] for key, value in operation["values"].items()}
        changed = sorted(key for key, value in values.items() if known.get(key, value) != value)
        if changed:
            logger.warning("run %s keeps its first value of %s", identity.name or identity.title, ", ".join(changed))
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(new), MAX_PARAMS_A_CALL):
            self._client.log_batch(run_id, params=new[start : start + MAX_PARAMS_A_CALL])

    def _tags(self, identity: Identity, operation: Operation) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(clean_name(key), str(value)[:MAX_TAG_LENGTH]) for key, value in operation["values"].items()]
        for start in range(0, len(tags), MAX_PARAMS_A_CALL):
            self._client.log_batch(self._open(identity), tags=tags[start : start + MAX_PARAMS_A_CALL])

    def _metrics(self, identity: Identity, operation: Operation) -> None:
        from mlflow.entities import Metric

        rows = [(clean_name(key), value, stamp, step) for key, value, stamp, step in operation["rows"]]
        run_id = self._start_over_if_rerun(identity, rows)
        new = [row for row in rows if row[3] is None or self._is_new(run_id, row[0], row[3])]
        metrics = [Metric(key, value, stamp, step or 0) for key, value, stamp, step in new]
        for start in range(0, len(metrics), MAX_METRICS_A_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_A_CALL])
        for key, _, _, step in new:
            if step is not None:
                known = self._steps_of(run_id, key)
                self._steps[run_id, key] = _Steps(known.first if known else step, step)

    def _start_over_if_rerun(self, identity: Identity, rows: list[Any]) -> str:
        """A run whose steps begin again with other code is replaced: mixed curves would belong to neither."""
        run_id = self._open(identity)
        if run_id not in self._found:
            return run_id
        stepped = [row for row in rows if row[3] is not None]
        if not stepped:
            return run_id
        self._found.discard(run_id)  # decided once, by the first steps that arrive
        known = self._steps_of(run_id, stepped[0][0])
        if known is None or stepped[0][3] > known.first:
            return run_id
        from pipeline.tracking.provenance import code_hash

        old = self._client.get_run(run_id)
        if old.data.tags.get(CODE_TAG) == code_hash():
            return run_id
        self._client.delete_run(run_id)
        self._runs[identity] = self._create(identity)
        kept = {
            key: value for key, value in old.data.tags.items() if not key.startswith(("mlflow.", "tsdsr.", "code."))
        }
        self._tags(identity, {"values": kept})
        self._params(identity, {"values": old.data.params})
        return self._runs[identity]

    def _is_new(self, run_id: str, key: str, step: int) -> bool:
        """False for the steps between a checkpoint and the kill that followed it, which a resumed run repeats."""
        known = self._steps_of(run_id, key)
        return known is None or step > known.last

    def _steps_of(self, run_id: str, key: str) -> _Steps | None:
        if (run_id, key) not in self._steps:
            steps = [metric.step for metric in self._client.get_metric_history(run_id, key)]
            self._steps[run_id, key] = _Steps(min(steps), max(steps)) if steps else None
        return self._steps[run_id, key]

    def _artifact(self, identity: Identity, operation: Operation) -> None:
        path, run_id = Path(operation["path"]), self._open(identity)
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), operation["folder"] or path.name)
        else:
            self._client.log_artifact(run_id, str(path), operation["folder"])

    def _dataset(self, identity: Identity, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        values = operation["values"]
        dataset = Dataset(values["name"], values["digest"], "local", values["source"], profile=values["profile"])
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", values["context"])])
        self._client.log_inputs(self._open(identity), [entry])

    def _model(self, identity: Identity, operation: Operation) -> None:
        from pipeline.tracking import model as tracking_model

        tracking_model.log(self._client, self._open(identity), Path(operation["path"]), operation["values"])

    def _status(self, identity: Identity, operation: Operation) -> None:
        run_id, status = self._open(identity), operation["status"]
        if status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, status, operation["end_time"])


def clean_name(name: str) -> str:
    """MLflow's names: letters, digits and `_-./: `; anything else becomes `_`."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def milliseconds() -> int:
    return int(time.time() * 1000)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, as DVC writes them: {"tsd": {"lambda": 1}} -> {"tsd.lambda": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@cache
def _client(uri: str, root: str) -> MlflowClient:
    """A client; the first one of a new SQLite store creates its tables, which two processes must not do at once."""
    for name, value in (("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "5")):
        # With MLflow's defaults a server that is down blocks every call for four minutes.
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with locked(Path(root) / ".tsdsr" / "store"):
        return MlflowClient(tracking_uri=uri)
