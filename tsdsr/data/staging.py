"""The staging folder of data/pairs, which is kept after an interruption, so that the next run continues."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tsdsr import files
from tsdsr.config import Params
from tsdsr.data.builders import PAIR_FILES, Outcome, Task, write_manifest

# A change of these invalidates the staged results of an interrupted run.
CODE = ("data", "degradation", "seeding.py")


class Staging:
    """`pairs/`, the future data/pairs, and `done/`, with one record per finished photograph.

    Bad photographs have no record, so a continued run tries them again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pairs = root / "pairs"
        self.done = root / "done"

    @classmethod
    def under(cls, base: Path, params: Params) -> Staging:
        """The staging folder of these params and this version of the code. Publishing clears `base`, with the staging
        folders of other params."""
        return cls(base.absolute() / _key(params))

    def recorded(self, task: Task) -> Outcome | None:
        """The outcome of an earlier run, if all of its files exist and its inputs have not changed."""
        try:
            record = files.read_json(self._record(task))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if record["inputs"] != _inputs(task):
            return None
        outcome = Outcome.from_json(record["outcome"])
        return outcome if all(path.is_file() for path in _files_of(self.pairs, [outcome])) else None

    def record(self, task: Task, outcome: Outcome) -> None:
        if outcome.reason is None:
            files.write_json(self._record(task), {"inputs": _inputs(task), "outcome": outcome.to_json()})

    def publish(self, outcomes: list[Outcome], params: Params, out: Path) -> None:
        """Write the manifest, replace `out` by the pairs, and clear the staging folder.

        Raises:
            UserError: too many photographs were bad; the staging folder is kept.
        """
        write_manifest(self.pairs, outcomes, params)
        wanted = {*_files_of(self.pairs, outcomes), self.pairs / "manifest.json"}
        for path in [path for path in self.pairs.rglob("*") if path.is_file() and path not in wanted]:
            path.unlink()  # of a killed writer, or of a photograph that was removed or is in the other split now
        with files.atomic_directory(out) as aside:
            for child in sorted(self.pairs.iterdir()):
                shutil.move(child, aside / child.name)  # a rename, unless `out` is on another file system
        shutil.rmtree(self.root.parent)

    def _record(self, task: Task) -> Path:
        return self.done / task.split / f"{task.ref.id}.json"


def _files_of(root: Path, outcomes: Iterable[Outcome]) -> Iterable[Path]:
    for outcome in outcomes:
        for row in outcome.pairs:
            for side, suffix in PAIR_FILES.items():
                yield root / row["split"] / side / f"{row['id']}{suffix}"


def _inputs(task: Task) -> list[Any]:
    """The inputs of a task's pairs besides params and code."""
    stamps = [_stamp(path) for path in (task.ref.path, task.ref.caption_file, task.lq)]
    return [task.ref.name, task.ref.caption, *stamps]


def _stamp(path: Path | None) -> list[int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _key(params: Params) -> str:
    values = params.to_dict()
    wanted = {name: values[name] for name in ("seed", "data", "captions", "degradation")}
    code = files.sha256_code(*(Path(__file__).parents[1] / name for name in CODE))
    return files.sha256_json([wanted, code])[:16]
