"""Find the photographs of a source and give each a readable, unique name that stays."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tsdsr.data.reading import BadPhotograph, read_photograph
from tsdsr.errors import UserError

__all__ = ["SUFFIXES", "BadPhotograph", "PhotographRef", "Split", "find_photographs", "read_photograph", "split_of"]

Split = Literal["train", "test"]

# What a picture is named; its content decides how it is read.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm"),
)
MAX_ID_LENGTH = 100


@dataclass(frozen=True)
class PhotographRef:
    """A photograph that has been found, not read.

    Attributes:
        id: safe as a file name, unique in its source; seeds every random draw that belongs to the photograph.
        path: where the file is.
        name: what people call it: its path inside the source, with `/`.
        caption: the caption the source carries itself, if any.
        split: the split the source fixes, if any.
    """

    id: str
    path: Path
    name: str
    caption: str | None = None
    split: Split | None = None


def find_photographs(source: str) -> list[PhotographRef]:
    """List the photographs of `bundled` or of a folder and the folders in it, in the order of their ids.

    Hidden files are passed over. A link is followed, but no file or folder is taken twice.

    Raises:
        UserError: the folder is missing, or there is no photograph in it.
    """
    if source == "bundled":
        from tsdsr.data.bundled import bundled_photographs

        return bundled_photographs()
    root = Path(source).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.source: {source} {what}; give a folder of photographs, or `bundled`")
    files = _walk(root)
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        others = Counter(path.suffix.lower() or "(no suffix)" for path in files)
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items())) or "nothing"
        raise UserError(f"data.source: no photographs in {source} (found: {found}); read are {' '.join(SUFFIXES)}")
    names = [_readable(path.relative_to(root)) for path in pictures]
    ids = _unique_ids(names)
    refs = [PhotographRef(id=ids[name], path=path, name=name) for name, path in zip(names, pictures, strict=True)]
    return sorted(refs, key=lambda ref: ref.id)


def split_of(refs: list[PhotographRef], test_fraction: float) -> dict[str, Split]:
    """Which split each photograph (by id) is in.

    Where the source fixes none, the photographs are ranked by a hash of their ids, and the first `test_fraction` of
    them (at least one, and not all) are the test split: no seed and no order of files changes it.
    """
    splits: dict[str, Split] = {ref.id: ref.split for ref in refs if ref.split}
    free = sorted((ref.id for ref in refs if not ref.split), key=lambda key: (_digest(key), key))
    if len(free) == 1:
        raise UserError("data.source: one photograph cannot be split into train and test; at least two are needed")
    num_test = min(max(1, round(len(free) * test_fraction)), len(free) - 1)
    for rank, key in enumerate(free):
        splits[key] = "test" if rank < num_test else "train"
    return splits


def _walk(root: Path) -> list[Path]:
    """Every visible file under `root` once. Real folders come before links: a file is found in its own place."""
    folders, links = deque([root]), deque[Path]()
    seen: set[Path] = set()
    files: list[Path] = []
    linked: list[Path] = []
    while folders or links:
        folder = (folders or links).popleft()
        if _seen_before(folder, seen):
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"data.source: {folder} cannot be listed: {error.strerror or error}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(Path(entry.path))
            elif entry.is_file() or entry.is_symlink():  # a dangling link is listed too: reading it gives the reason
                (linked if entry.is_symlink() else files).append(Path(entry.path))
    return [path for path in files + linked if not _seen_before(path, seen)]


def _seen_before(path: Path, seen: set[Path]) -> bool:
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        real = path.absolute()
    if real in seen:
        return True
    seen.add(real)
    return False


def _readable(path: Path) -> str:
    """The path as text that any file can hold: names that are not UTF-8 have their odd bytes spelled out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _unique_ids(names: list[str]) -> dict[str, str]:
    """Name -> id. A photograph's id depends on its own name, unless another one's comes out the same: then both carry a
    hash of their names."""
    slugs = {name: _slug(name) for name in names}
    times = Counter(slug.casefold() for slug in slugs.values())
    return {
        name: slug if times[slug.casefold()] == 1 and len(slug) <= MAX_ID_LENGTH else f"{slug[:60]}-{_digest(name)[:8]}"
        for name, slug in slugs.items()
    }


def _slug(name: str) -> str:
    stem = name.rsplit(".", 1)[0].replace("/", "--")
    return re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", stem)).strip("-.") or "photograph"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
