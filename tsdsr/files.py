"""Files that are complete or absent: written aside, then renamed. A full disk is reported as such."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsdsr.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the process's limit


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    The temporary name keeps the suffix, since writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
    os.close(descriptor)
    aside = Path(name)
    try:
        with telling_of_no_space(path):
            yield aside
        aside.chmod(0o666 & ~_umask())  # mkstemp's 0600 would not be readable by others
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty directory beside `path`; on success it replaces `path`, on any error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        with telling_of_no_space(path):
            yield aside
        _let_others_read(aside)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
            path.replace(old / path.name)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(source: str | Path, path: str | Path) -> None:
    """Make `path` a copy of the directory `source`, complete or not at all; `source` is kept.

    The files are hard links if the file system supports them, which is fast and takes no space. Only one process may do
    this at a time; leftovers of a killed one beside `path` are removed.
    """
    source, path = Path(source), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (path.parent / f".{path.name}.{which}" for which in ("new", "old"))
    try:
        _remove(aside, old)
        with telling_of_no_space(path):
            for file in sorted(file for file in source.rglob("*") if file.is_file()):
                target = aside / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(file, target)
        _let_others_read(aside)
        old.mkdir()
        if path.exists():
            path.replace(old / path.name)
        aside.replace(path)
    finally:
        if (old / path.name).exists() and not path.exists():
            (old / path.name).replace(path)
        _remove(aside, old)


@contextmanager
def telling_of_no_space(path: str | Path) -> Iterator[None]:
    """Turn an error about a full disk into a `UserError` that names `path`."""
    try:
        yield
    except Exception as error:
        if not is_no_space(error):
            raise
        raise UserError(no_space(path)) from error


def is_no_space(error: BaseException) -> bool:
    """Whether the error means that the disk, a quota or a limit is full, by its number or its message."""
    return getattr(error, "errno", None) in NO_SPACE or any(f"os error {code}" in str(error) for code in NO_SPACE)


def no_space(path: str | Path) -> str:
    """The message about a write to `path` without enough space."""
    folder = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
    room = shutil.disk_usage(folder)
    return (
        f"{path}: no space left: it needs more than the {room.free / 2**20:,.1f} MiB that are free there (of "
        f"{room.total / 2**20:,.0f}; a quota may be less). What was written before is intact; free some and retry"
    )


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON, sorted by key, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sha256_file(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_code(*paths: Path) -> str:
    """sha256 over Python sources, given as files and folders, so that a checkpoint is not resumed by different code."""
    digest = hashlib.sha256()
    for path in paths:
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of a plain value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _remove(*directories: Path) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _let_others_read(directory: Path) -> None:
    """Set permissions by the umask: temporary directories and files of safetensors are readable by their owner
    alone."""
    mask = _umask()
    for place in (directory, *directory.rglob("*")):
        if not place.is_symlink():
            place.chmod((0o777 if place.is_dir() else 0o666) & ~mask)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
