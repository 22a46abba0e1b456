"""One process at a time: a lock file that the system frees when its holder ends, however that ends.

The file names its holder for whoever is refused; it stays, and means nothing without the lock (flock) on it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from tsdsr.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def alone(path: str | Path, work: str) -> Iterator[None]:
    """Hold the lock during the block.

    Args:
        path: the lock file; made if it is not there.
        work: what is being done, for people: "the distillation of full".

    Raises:
        UserError: another process holds it; names that process.
    """
    with _opened(path) as file:
        if not _take(file, wait=False):
            raise UserError(f"{work} is under way already, in {_holder(file)}. {_advice(path)}")
        _sign(file)
        yield


@contextmanager
def in_turn(path: str | Path, work: str) -> Iterator[None]:
    """Hold the lock during the block, after waiting for whoever holds it: one that is just being ended, say."""
    with _opened(path) as file:
        if not _take(file, wait=False):
            logger.warning("%s waits for %s, which has not ended yet", work, _holder(file))
            _take(file, wait=True)
        _sign(file)
        yield


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[str]]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:  # closing it frees the lock
        yield file


def _take(file: IO[str], *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _sign(file: IO[str]) -> None:
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "command": " ".join(sys.orig_argv),
    }
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder))
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder: dict[str, Any] = json.loads(file.read())
        return "process {pid} on {host} since {since} ({command})".format(**holder)
    except (ValueError, KeyError):  # it is just signing
        return "another process"


def _advice(path: str | Path) -> str:
    return f"Wait for it, or end it: SIGTERM lets it save what it has. (Its lock: {path})"
