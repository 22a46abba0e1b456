"""MLflow runs: one parent per pipeline run, one child per variant, logged from any number of processes.

    with tracking.child(params, "full") as run:
        run.metrics({"loss/tsd": 0.1}, step=5)

A parent is identified by the state of the code and the values of the params, so all stages of one `dvc repro` share it
and a repeated stage finds its child. Inside `with parent(params):` every child belongs to that parent, whatever its own
params; so an ablation with changed params is a sibling of the full run.

Runs are always logged to the repository's own store (`pipeline.tracking.store`). Where MLFLOW_TRACKING_URI names a
server, a run is copied there when its session ends (`pipeline.tracking.sync`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.tracking import description, provenance, store, sync
from pipeline.tracking.store import PARENT, Identity, clean_name
from tsdsr import files
from tsdsr.config import Params, flatten

if TYPE_CHECKING:
    import numpy as np
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

T = TypeVar("T")
logger = logging.getLogger(__name__)

PARENT_VARIABLE = "TSDSR_TRACKING_PARENT"
ACTIVE_TAG = "tsdsr.active_ms"  # the total duration of the run's sessions
MAX_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits for one log_batch
MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 6000, 5000
FLUSH_SECONDS = 2.0
# Sections that do not affect a single student.
_NOT_OF_A_CHILD = ("ablate", "sweep", "report", "tracking")
_OPENED: dict[str, Run] = {}  # by id, the runs of this process


def _recorded(method: Callable[..., T]) -> Callable[..., T | None]:
    """Turn an error of the store into one warning; do nothing if the store could not be opened."""

    @wraps(method)
    def call(run: Run, *arguments: Any, **options: Any) -> T | None:
        try:
            return method(run, *arguments, **options) if run.run_id else None
        except Exception as error:
            run.warn(method.__name__, error)
            return None

    return call


class Run:
    """A run to log to. An error of the store is a warning, since recording must not end the work."""

    def __init__(self, root: Path, identity: Identity) -> None:
        self.name = identity.name or PARENT
        self.run_id: str | None = None  # None if the store could not be opened
        self.root = root
        self._rows: list[tuple[str, float, int, int | None]] = []
        self._next_flush = 0.0
        self._warned: set[str] = set()
        try:
            self.run_id = store.open_run(root, identity)
            self._client = store.client(root)
            _OPENED[self.run_id] = self
        except Exception as error:
            self.warn("start", error)

    def warn(self, what: str, error: Exception) -> None:
        """Warn once about an error of the store; raise any other error."""
        if not store.is_failure(error):
            raise error
        if what not in self._warned:
            reason = str(error).partition("\n")[0][:300]
            logger.warning("MLflow did not record the %s of run %s (%s); the work continues", what, self.name, reason)
        self._warned.add(what)

    @_recorded
    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted keys. MLflow params cannot change: the first value is kept."""
        from mlflow.entities import Param

        flat = {clean_name(key): str(value)[:MAX_PARAM_LENGTH] for key, value in flatten(values).items()}
        known = self._client.get_run(self.run_id).data.params
        changed = sorted(key for key, value in flat.items() if known.get(key, value) != value)
        if changed:
            logger.warning("run %s keeps its first value of %s", self.name, ", ".join(changed))
        self._batches("params", [Param(key, value) for key, value in flat.items() if key not in known])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, of a training step or of the whole run. Buffered: see `flush`."""
        self._rows += [(clean_name(key), float(value), _now(), step) for key, value in values.items()]
        if time.monotonic() >= self._next_flush:
            self.flush()

    @_recorded
    def flush(self) -> None:
        """Write the buffered metrics; called before a checkpoint, so that a kill after it loses none."""
        from mlflow.entities import Metric

        rows, self._rows = self._rows, []
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        self._batches("metrics", [Metric(key, value, now, step or 0) for key, value, now, step in rows])

    @_recorded
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; unlike params they may change."""
        from mlflow.entities import RunTag

        tags = [RunTag(clean_name(key), str(value)[:MAX_TAG_LENGTH]) for key, value in values.items()]
        self._batches("tags", tags)

    @_recorded
    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, or the contents of a directory, below `folder` of the run's artifacts."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder or Path(path).name)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    @_recorded
    def image(self, key: str, pixels: np.ndarray, step: int) -> None:
        """Log uint8 (H, W, 3) as a step of the run's image series `key`."""
        self._client.log_image(self.run_id, pixels, key=key, step=step)

    @_recorded
    def dataset(self, name: str, manifest: str | Path, context: str) -> None:
        """Log a data set that the run used (`context`: training, evaluation ...), identified by its manifest's hash."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        content = files.read_json(manifest)
        profile = {key: len(value) if isinstance(value, list | dict) else value for key, value in content.items()}
        source = json.dumps({"uri": str(manifest)})
        dataset = Dataset(name, _digest(manifest), "local", source, profile=json.dumps(profile))
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    @_recorded
    def model(
        self,
        student: str | Path,
        config: Mapping[str, str],
        metrics: Mapping[str, float],
        data: str,
        manifest: str | Path,
    ) -> None:
        """Log a student directory as an MLflow model, with its scores on a data set.

        Args:
            config: what loading needs: `teacher`, its path, and `color`, the alignment of the scored images.
            metrics: its scores. data, manifest: the data set of the scores, as in `dataset`.
        """
        from mlflow.entities import Metric

        from pipeline.tracking import model

        model_id = model.log(self._client, str(self.run_id), self.name, Path(student), config)
        digest = _digest(manifest)
        scores = [Metric(key, value, _now(), 0, model_id, data, digest, self.run_id) for key, value in metrics.items()]
        self._batches("metrics", scores)

    @_recorded
    def begin(self) -> None:
        """Mark the run as running, and its copy on a server as incomplete."""
        self._client.update_run(self.run_id, status="RUNNING")
        self._client.set_tag(self.run_id, sync.COPIED_TAG, "nowhere yet")

    @_recorded
    def end(self, status: str, active: int) -> None:
        """Set one of MLflow's terminal states: FINISHED, FAILED, KILLED.

        MLflow shows end - start as the duration. The end set here is the start plus `active`, the total milliseconds of
        the run's sessions, which excludes the time between them.
        """
        self.flush()
        self.tags({ACTIVE_TAG: active})
        self._client.set_terminated(self.run_id, status, self._client.get_run(self.run_id).info.start_time + active)

    @_recorded
    def active(self) -> int:
        """The total milliseconds of the run's finished sessions."""
        return int(self._client.get_run(self.run_id).data.tags.get(ACTIVE_TAG, 0))

    @_recorded
    def monitor(self) -> SystemMetricsMonitor:
        """Log processor, memory, disk, network and GPUs of this host every 10 s, as `system/...`; until `finish()`."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=store.uri(self.root))
        monitor.start()
        return monitor

    def _batches(self, kind: str, entries: list[Any]) -> None:
        for start in range(0, len(entries), MAX_PER_CALL[kind]):
            batch: dict[str, Any] = {kind: entries[start : start + MAX_PER_CALL[kind]]}
            self._client.log_batch(self.run_id, **batch)


@contextmanager
def child(params: Params, name: str) -> Iterator[Run]:
    """The child run of a variant or stage with these params; created, or found and continued.

    Args:
        name: readable and unique below its parent: `full`, `wo_tsm-seed0`, `bicubic`.
    """
    with nullcontext() if PARENT_VARIABLE in os.environ else parent(params):
        above = Identity(**json.loads(os.environ[PARENT_VARIABLE]))
        identity = Identity(above.experiment, above.key, above.title, clean_name(name))
        sections = {key: value for key, value in params.to_dict().items() if key not in _NOT_OF_A_CHILD}
        with _session(identity, sections, description.of_child(params, name)) as run:
            monitor = run.monitor()
            try:
                yield run
            finally:
                if monitor is not None:
                    monitor.finish()


@contextmanager
def parent(params: Params, *, title: str | None = None, key: str | None = None) -> Iterator[Run]:
    """The run of the whole pipeline for this code and these params.

    Args:
        title: its readable name; by default DVC's name of the experiment, then short hashes of commit and params.
        key: identifies the run instead of code and params.
    """
    commit, code, digest = provenance.git_commit(), provenance.code_hash(), provenance.params_hash(params)
    edited = f"edited {code[:6]}" if provenance.git_dirty() else None
    parts = (os.environ.get("DVC_EXP_NAME"), commit[:7], edited, digest[:6])
    shown = title or "-".join(part for part in parts if part)
    key = key or f"{commit[:12]}-{code[:12]}-{digest[:12]}"
    identity = Identity(params.tracking.experiment, key, shown)
    with _session(identity, params.to_dict(), description.of_parent(shown)) as run, _inherited(identity):
        yield run


@contextmanager
def _session(identity: Identity, values: Mapping[str, Any], words: str) -> Iterator[Run]:
    """Open a run, log its provenance, and set its status at the end."""
    root, started = provenance.root(), time.monotonic()
    run = Run(root, identity)
    before = run.active() or 0
    run.begin()
    run.params(values)
    run.tags(_provenance_tags() | {"mlflow.note.content": words})
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        # A worker's session of the same run may have been open during this one.
        run.end(status, max(run.active() or 0, before + round(1000 * (time.monotonic() - started))))
        sync.copy_or_warn(root, run.run_id)


@contextmanager
def _inherited(identity: Identity) -> Iterator[None]:
    """Within the block, children opened in this process or its subprocesses belong to this parent."""
    before = os.environ.get(PARENT_VARIABLE)
    os.environ[PARENT_VARIABLE] = json.dumps(asdict(identity))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PARENT_VARIABLE, None)
        else:
            os.environ[PARENT_VARIABLE] = before


def environment() -> dict[str, str]:
    """Variables by which another process, such as a Ray worker in another directory, logs to the same store."""
    provenance.stage()
    values = {
        provenance.ROOT_VARIABLE: str(provenance.root()),
        provenance.COMMIT_VARIABLE: provenance.git_commit(),
        **{name: os.environ.get(name, "") for name in (provenance.STAGE_VARIABLE, PARENT_VARIABLE, sync.URI_VARIABLE)},
    }
    return {key: value for key, value in values.items() if value}


def log_outputs() -> None:
    """At a stage's end: tag its runs with the hashes of its outputs."""
    tags = {f"dvc.{path}": digest for path, digest in provenance.outputs().items()} if _OPENED else {}
    for run_id, run in _OPENED.items():
        run.tags(tags)
        sync.copy_or_warn(run.root, run_id)


def _provenance_tags() -> dict[str, str]:
    commit = provenance.git_commit()
    return {
        "mlflow.source.git.commit": commit,
        "git.commit": commit,
        "git.dirty": str(provenance.git_dirty()).lower(),
        "code.sha256": provenance.code_hash(),
        **{f"dvc.{path}": digest for path, digest in provenance.stage().inputs.items()},
        **{f"hardware.{key}": value for key, value in _hardware().items()},
    }


@cache
def _hardware() -> dict[str, str]:
    return provenance.hardware()


def _digest(manifest: str | Path) -> str:
    return files.sha256_file(manifest)[:16]


def _now() -> int:
    return int(time.time() * 1000)
