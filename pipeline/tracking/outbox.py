"""What could not be sent to the tracking server, kept on disk until it can.

One folder a run, `.tsdsr/tracking-outbox/<identity>/`: `run.json` says which run it belongs to, `operations.jsonl`
holds one operation a line, in order, and `files/` the artifacts as they were when logged.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsdsr.files import read_json, write_json

Operation = dict[str, Any]


class Outbox:
    """The operations of one run that wait to be sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = folder / "operations.jsonl"

    @classmethod
    def of(cls, root: Path, identity: dict[str, Any]) -> Outbox:
        """The outbox of the run with this identity, below the repository's root."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return cls(directory(root) / f"{identity['name'] or 'parent'}-{digest}".replace("/", "_"))

    def append(self, identity: dict[str, Any], operations: list[Operation]) -> None:
        """Keep operations; artifacts are copied, since their files may change before they are sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.parent):
            write_json(self.folder / "run.json", identity)
            with self._lines.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(self._keep_files(operation)) + "\n" for operation in operations)

    def send(self, apply: Callable[[dict[str, Any], Operation], None]) -> int:
        """Apply every operation in order and forget it; what `apply` raises leaves the rest for the next time.

        Returns:
            The number of operations sent.
        """
        with locked(self.folder.parent):
            if not self._lines.is_file():
                return 0
            identity = read_json(self.folder / "run.json")
            waiting = [line for line in self._lines.read_text(encoding="utf-8").splitlines() if line]
            sent = 0
            try:
                for line in waiting:
                    apply(identity, json.loads(line))
                    sent += 1
            finally:
                self._forget(waiting, sent)
            return sent

    def _forget(self, waiting: list[str], sent: int) -> None:
        if sent == len(waiting):
            shutil.rmtree(self.folder)
        elif sent:
            self._lines.write_text("".join(line + "\n" for line in waiting[sent:]), encoding="utf-8")

    def _keep_files(self, operation: Operation) -> Operation:
        if "path" not in operation:
            return operation
        source = Path(operation["path"])
        number = len(list((self.folder / "files").glob("*")))
        kept = self.folder / "files" / str(number) / source.name
        kept.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, kept)
        else:
            shutil.copy2(source, kept)
        return {**operation, "path": str(kept)}


def directory(root: Path) -> Path:
    return root / ".tsdsr" / "tracking-outbox"


def waiting(root: Path) -> list[Outbox]:
    """Every outbox below this root that holds something."""
    return [Outbox(path.parent) for path in sorted(directory(root).glob("*/operations.jsonl"))]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclusive use of a folder among processes; released by the system when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
