"""Find the picture files of a folder, for training and for enlarging."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from tsdsr.errors import UserError

# Suffixes of picture files; the content determines how they are read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm"),
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # readable with the extra `heif`


def walk(root: Path, seen: set[Path]) -> list[Path]:
    """Every visible file below a folder, following links; broken links are included, so that reading reports them.

    Real folders come before links, so that a file is found by its real path.

    Args:
        seen: the set of `seen_before`; folders in it are skipped, and entered ones are added.

    Raises:
        UserError: a folder cannot be listed.
    """
    folders, links = deque([root]), deque[Path]()
    files: list[Path] = []
    linked: list[Path] = []
    while folders or links:
        folder = (folders or links).popleft()
        if seen_before(folder, seen):
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be listed: {error.strerror or error}") from None
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                (links if path.is_dir() else linked).append(path)
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():  # no pipes, which may block for ever
                files.append(path)
    return files + linked


def seen_before(path: Path, seen: set[Path]) -> bool:
    """Whether the file or folder, after resolving links, is in `seen`; it is added."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        real = path.absolute()
    if real in seen:
        return True
    seen.add(real)
    return False


def told_apart(files: Iterable[Path], suffixes: Sequence[str] = SUFFIXES) -> tuple[list[Path], Counter[str]]:
    """The pictures among the files, by their names, and the number of files of every other suffix."""
    pictures, others = [], Counter[str]()
    for path in files:
        if path.suffix.lower() in suffixes:
            pictures.append(path)
        else:
            others[path.suffix.lower() or "no suffix"] += 1
    return pictures, others


def counted(others: Counter[str]) -> str:
    """`told_apart`'s counts as text, such as "1 .pdf, 2 .txt"."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
