"""MLflow: one parent run a pipeline run, one child a variant, from as many processes as it takes.

    with tracking.child(params, "full") as run:
        run.metrics({"loss/tsd": 0.1}, step=5)

The parent belongs to a commit and the values of the params, so the stages of one `dvc repro` meet in it and a stage
that runs again finds its child. Inside `with parent(params):` every child belongs to that parent, whatever its own
params: that is how an ablation with changed params stays beside the full run.

The store is MLFLOW_TRACKING_URI, or `mlflow.db` with `mlruns/` in the repository. A server that is down stops nothing:
one warning, then everything is kept in `.tsdsr/tracking-outbox` and sent by the next run, or by
`python -m pipeline.tracking.runs`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.stages import stage
from pipeline.tracking import outbox, provenance
from pipeline.tracking.store import Identity, Store, StoreUnavailable, clean_name, flatten, milliseconds
from tsdsr.config import Params

logger = logging.getLogger(__name__)

PARENT_VARIABLE = "TSDSR_TRACKING_PARENT"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# Sections that say nothing about how one student came to be.
_NOT_OF_A_CHILD = ("ablate", "sweep", "report", "tracking")
# What tags name by its hash; code has its own, and what is in reports/ is logged whole.
_DATA = ("data/", "captions")
_FLUSH_SECONDS = 1.0
_FLUSH_SHARE = 0.05  # of the time at most is spent on sending metrics


class Run:
    """A run to log to. Nothing here raises because of the tracking server."""

    def __init__(self, identity: Identity, store: Store, root: Path) -> None:
        self.identity = identity
        self._store = store
        self._root = root
        self._outbox = outbox.Outbox.of(root, identity.to_dict())
        self._params: dict[str, Any] = {}
        self._rows: list[tuple[str, float, int, int | None]] = []
        self._next_flush = 0.0

    @property
    def run_id(self) -> str | None:
        """MLflow's id, or None while the server is away."""
        try:
            return self._store.open(self.identity) if not _is_away(self._store) else None
        except StoreUnavailable as error:
            _went_away(self._store, error)
            return None

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted keys. They go out with the next flush."""
        self._params.update(flatten(values))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, of a training step or of the whole run. Buffered: see `flush`."""
        stamp = milliseconds()
        self._rows += [(key, float(value), stamp, step) for key, value in values.items()]
        if time.monotonic() >= self._next_flush:
            self.flush()

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, or the contents of a directory, below `folder` of the run's artifacts."""
        self._submit({"op": "artifact", "path": str(path), "folder": folder})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; unlike params they may change."""
        self._submit({"op": "tags", "values": {key: str(value) for key, value in values.items()}})

    def dataset(self, name: str, manifest: str | Path, context: str) -> None:
        """Log what the run used (`context`: training, evaluation ...) as MLflow knows it, by its manifest's hash."""
        from tsdsr.files import read_json, sha256_file

        content = read_json(manifest)
        profile = {key: len(value) if isinstance(value, list | dict) else value for key, value in content.items()}
        values = {
            "name": name,
            "digest": sha256_file(manifest)[:16],
            "source": json.dumps({"uri": str(manifest)}),
            "profile": json.dumps(profile),
            "context": context,
        }
        self._submit({"op": "dataset", "values": values})

    def model(
        self,
        student: str | Path,
        config: Mapping[str, str],
        metrics: Mapping[str, float],
        data: str,
        manifest: str | Path,
    ) -> None:
        """Log a student directory as MLflow knows models, with its scores on a data set.

        Args:
            config: what loading it needs: `teacher`, where that is, and `color`, the alignment it was scored with.
            metrics: its scores. data, manifest: of what they were measured on, as `dataset` logs it.
        """
        from pipeline.tracking import model as tracking_model
        from tsdsr.files import sha256_file

        dataset = {"name": data, "digest": sha256_file(manifest)[:16]}
        values = tracking_model.describe(str(self.identity.name), Path(student), config, metrics, dataset)
        self._submit({"op": "model", "path": str(student), "values": values})

    def flush(self) -> None:
        """Send what is buffered; before a checkpoint, so that a kill after it loses no metric."""
        started = time.monotonic()
        operations: list[outbox.Operation] = []
        if self._params:
            operations.append({"op": "params", "values": {key: str(value) for key, value in self._params.items()}})
        if self._rows:
            operations.append({"op": "metrics", "rows": self._rows})
        self._params, self._rows = {}, []
        self._submit(*operations)
        spent = time.monotonic() - started
        self._next_flush = time.monotonic() + max(_FLUSH_SECONDS, spent / _FLUSH_SHARE)

    def status(self, status: str) -> None:
        """RUNNING, or MLflow's terminal states FINISHED, FAILED, KILLED."""
        self.flush()
        self._submit({"op": "status", "status": status, "end_time": milliseconds()})

    def _submit(self, *operations: outbox.Operation) -> None:
        waiting = list(operations)
        if _is_due_again(self._store):
            send_waiting(self._root)
        try:
            while waiting and not _is_away(self._store):
                self._store.apply(self.identity, waiting[0])
                waiting.pop(0)
        except StoreUnavailable as error:
            _went_away(self._store, error)
        if waiting:
            self._outbox.append(self.identity.to_dict(), waiting)


@contextmanager
def child(params: Params, name: str) -> Iterator[Run]:
    """The run of a variant or stage below the pipeline's run, with these params; created, or found and continued.

    Args:
        params: logged flattened (what `Run.params` is given wins, until the first flush).
        name: readable and unique below its parent: `full`, `wo_tsm-seed0`, `teacher`.
    """
    inherited = os.environ.get(PARENT_VARIABLE)
    if inherited is None:
        with parent(params):
            yield from _child(params, name)
    else:
        yield from _child(params, name)


def _child(params: Params, name: str) -> Iterator[Run]:
    above = Identity(**json.loads(os.environ[PARENT_VARIABLE]))
    identity = Identity(above.experiment, above.key, above.title, clean_name(name))
    sections = {key: value for key, value in params.to_dict().items() if key not in _NOT_OF_A_CHILD}
    with _session(identity, sections) as run:
        yield run


@contextmanager
def parent(params: Params, *, title: str | None = None, key: str | None = None) -> Iterator[Run]:
    """The run of the whole pipeline for this commit and these params.

    Args:
        title: its readable name; by default commit and params, shortened, after DVC's name of the experiment.
        key: makes it a run of its own instead: calls with the same key meet in it, whatever the commit.
    """
    commit, digest = provenance.git_commit(), provenance.params_hash(params)
    parts = (os.environ.get("DVC_EXP_NAME"), commit[:7], digest[:6])
    shown = title or "-".join(part for part in parts if part)
    identity = Identity(params.tracking.experiment, key or _pipeline_key(params), shown)
    with _session(identity, params.to_dict()) as run, _inherited(identity):
        yield run


@contextmanager
def _session(identity: Identity, values: Mapping[str, Any]) -> Iterator[Run]:
    """A run from RUNNING to its end, with what made it."""
    root = provenance.root()
    store = _store(root)
    send_waiting(root)
    run = Run(identity, store, root)
    run.status("RUNNING")
    run.params(values)
    run.tags(_provenance_tags(root))
    end = "FAILED"
    try:
        yield run
        end = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        end = "KILLED"
        raise
    finally:
        run.status(end)


@contextmanager
def _inherited(identity: Identity) -> Iterator[None]:
    """Children opened meanwhile, in this process or in those it starts, belong to this parent."""
    before = os.environ.get(PARENT_VARIABLE)
    os.environ[PARENT_VARIABLE] = json.dumps(identity.to_dict())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PARENT_VARIABLE, None)
        else:
            os.environ[PARENT_VARIABLE] = before


def end_child(name: str, tags: Mapping[str, Any]) -> None:
    """End a child whose process was stopped from outside, and so could not do it itself. Within `parent`."""
    root = provenance.root()
    above = Identity(**json.loads(os.environ[PARENT_VARIABLE]))
    run = Run(Identity(above.experiment, above.key, above.title, clean_name(name)), _store(root), root)
    run.tags(tags)
    run.status("KILLED")


def environment() -> dict[str, str]:
    """Variables that make a process elsewhere (a Ray worker, in another directory) log where this one does."""
    root = provenance.root()
    values = {
        URI_VARIABLE: _uri(root),
        provenance.ROOT_VARIABLE: str(root),
        provenance.COMMIT_VARIABLE: provenance.git_commit(),
        PARENT_VARIABLE: os.environ.get(PARENT_VARIABLE, ""),
    }
    return {key: value for key, value in values.items() if value}


def send_waiting(root: Path) -> int:
    """Send what earlier runs could not; returns how many operations were sent."""
    store, sent = _store(root), 0
    if _is_away(store):
        return 0
    for box in outbox.waiting(root):
        try:
            sent += box.send(lambda identity, operation: store.apply(Identity(**identity), operation))
        except StoreUnavailable as error:
            _went_away(store, error)
            break
    else:
        _AWAY.pop(store.uri, None)
    if sent:
        logger.info("sent %d tracking operations that had been kept locally", sent)
    return sent


def _pipeline_key(params: Params) -> str:
    return f"{provenance.git_commit()[:12]}-{provenance.params_hash(params)[:12]}"


def _provenance_tags(root: Path) -> dict[str, str]:
    lock = root / "dvc.lock"
    commit = provenance.git_commit()
    tags = {
        "mlflow.source.git.commit": commit,
        "git.commit": commit,
        "git.dirty": str(provenance.git_dirty()).lower(),
        **{f"dvc.{path}": digest for path, digest in provenance.dvc_hashes(lock).items() if path.startswith(_DATA)},
        **{f"hardware.{key}": value for key, value in _hardware().items()},
    }
    return {clean_name(key): value for key, value in tags.items()}


@cache
def _hardware() -> dict[str, str]:
    return provenance.hardware()


def _uri(root: Path) -> str:
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{root / 'mlflow.db'}"


@cache
def _store_at(uri: str, artifacts: Path) -> Store:
    return Store(uri, artifacts)


def _store(root: Path) -> Store:
    return _store_at(_uri(root), root / "mlruns")


@dataclass
class _Away:
    """A store that failed: asked again after a while, ever more seldom."""

    until: float
    delay: float


_AWAY: dict[str, _Away] = {}
_FIRST_DELAY, _LONGEST_DELAY = 60.0, 960.0  # seconds


def _is_away(store: Store) -> bool:
    return store.uri in _AWAY and time.monotonic() < _AWAY[store.uri].until


def _is_due_again(store: Store) -> bool:
    return store.uri in _AWAY and not _is_away(store)


def _went_away(store: Store, error: StoreUnavailable) -> None:
    before = _AWAY.get(store.uri)
    delay = min(2 * before.delay, _LONGEST_DELAY) if before else _FIRST_DELAY
    _AWAY[store.uri] = _Away(time.monotonic() + delay, delay)
    if before is None:
        logger.warning(
            "tracking is unavailable (%s); metrics are kept in .tsdsr/tracking-outbox and sent later", str(error)[:300]
        )


def main() -> None:
    """Send what could not be sent earlier."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    root = provenance.root()
    send_waiting(root)
    left = len(outbox.waiting(root))
    if left:
        logger.warning("%d runs still wait to be sent", left)
    else:
        logger.info("nothing is left to send")


if __name__ == "__main__":
    stage.run(main)
