"""Locks between processes (flock); the system releases them however their holder ends."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tsdsr import files
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(path: str | Path, work: str) -> Iterator[None]:
    """Hold the lock during the block.

    Args:
        path: the lock file, created if absent.
        work: for the message, such as "the distillation of full".

    Raises:
        UserError: another process holds it; names that process.
    """
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{work} is already running, in {_holder(path)}. Wait for it, or end it: SIGTERM lets it save what it "
            f"has. (Its lock: {path})"
        ) from None
    with _signed(lock, path):
        yield


@contextmanager
def in_turn(path: str | Path, work: str) -> Iterator[None]:
    """Wait for the lock, which a process that is just ending may hold, and hold it during the block."""
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.warning("%s waits for %s, which has not ended yet", work, _holder(path))
        lock.acquire()
    with _signed(lock, path):
        yield


def locked(folder: Path) -> FileLock:
    """A context manager for exclusive use of a folder among processes."""
    return _lock(folder / ".lock")


def _lock(path: str | Path) -> FileLock:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def _signed(lock: FileLock, path: str | Path) -> Iterator[None]:
    """Take a lock, and write a note beside it that names the holder."""
    since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    holder = f"process {os.getpid()} on {platform.node()} since {since} ({' '.join(sys.orig_argv)})"
    try:
        files.write_text(_note(path), holder)
        yield
    finally:
        lock.release()


def _holder(path: str | Path) -> str:
    return _note(path).read_text(encoding="utf-8") if _note(path).is_file() else "another process"


def _note(path: str | Path) -> Path:
    return Path(f"{path}.holder")
