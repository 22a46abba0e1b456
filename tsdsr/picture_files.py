"""Which files of a folder are pictures, for those who train on them and those who enlarge them."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from tsdsr.errors import UserError

# What a picture is named; its content decides how it is read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm"),
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read where the extra `heif` is installed


def walk(root: Path, seen: set[Path]) -> list[Path]:
    """Every visible file below a folder, links followed; one that leads nowhere counts: reading it tells why.

    Real folders come before links, so that a file is found in its own place.

    Args:
        seen: what `seen_before` knows; none of these folders is entered, and those that are entered are added.

    Raises:
        UserError: a folder cannot be listed, and so not be said to be empty.
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
            elif entry.is_file():  # no pipe, which nobody may ever fill
                files.append(path)
    return files + linked


def seen_before(path: Path, seen: set[Path]) -> bool:
    """Whether the file or folder, by whatever links it is reached, is in `seen`; from now on it is."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        real = path.absolute()
    if real in seen:
        return True
    seen.add(real)
    return False


def told_apart(files: Iterable[Path], suffixes: Sequence[str] = SUFFIXES) -> tuple[list[Path], Counter[str]]:
    """The pictures among the files, by their names, and how many there are of every other suffix."""
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
