"""Find the photographs of a source and give each a readable, unique and stable name."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tsdsr import picture_files
from tsdsr.data.bundled import bundled_photographs
from tsdsr.errors import UserError

Split = Literal["train", "test"]

# Files that accompany photographs; any other suffix is logged.
COMPANIONS = (".txt", ".csv", ".json", ".md", ".xml", ".xmp", ".yaml", ".sha256")
MAX_ID_LENGTH = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotographRef:
    """A photograph that was found and not read yet.

    Attributes:
        id: safe as a file name, unique in its source; the key of all random draws for the photograph.
        path: where the file is.
        name: for messages: its path inside the source, with `/`.
        caption_file: the path of its caption; the file may be absent.
        caption: its caption from the source or a captioning model, if any.
        split: the split that the source fixes, if any.
    """

    id: str
    path: Path
    name: str
    caption_file: Path | None = None
    caption: str | None = None
    split: Split | None = None


def find_photographs(source: str | Sequence[str], key: str = "data.source") -> list[PhotographRef]:
    """List the photographs of a source in the order of their ids.

    Hidden files are skipped. Links are followed, but no file or folder is read twice.

    Args:
        source: `bundled`; a folder, searched recursively; a glob pattern (`**` spans folders); or several of these, in
            which case the photographs' names begin with the folder's name.
        key: the params key for messages.

    Raises:
        UserError: a folder is missing, or there is no photograph.
    """
    sources = [source] if isinstance(source, str) else list(dict.fromkeys(source))
    if sources == ["bundled"]:
        return _bundled()
    found: dict[Path, str] = {}
    seen: set[Path] = set()
    refs = []
    for one, prefix in zip(sources, _prefixes(sources), strict=True):
        if one == "bundled":
            refs += _bundled()
            continue
        root, files = _expand(one, key, seen)
        found |= {path: _readable(prefix / path.relative_to(root)) for path in _pictures(files, one, key)}
    ids = _unique_ids(found.values(), taken={ref.id for ref in refs})
    for path, name in found.items():
        refs.append(PhotographRef(id=ids[name], path=path, name=name, caption_file=path.with_suffix(".txt")))
    return sorted(refs, key=lambda ref: ref.id)


def split_of(refs: Iterable[PhotographRef], test_fraction: float) -> dict[str, Split]:
    """The split of each photograph, by id.

    If the source fixes none, the photographs are ranked by a hash of their ids, and the first `test_fraction` of them
    (at least one, and not all) are the test split, independent of seeds and of the order of files.
    """
    refs = list(refs)
    splits: dict[str, Split] = {ref.id: ref.split for ref in refs if ref.split}
    free = sorted((ref.id for ref in refs if not ref.split), key=lambda name: (_digest(name), name))
    if len(free) == 1:
        raise UserError("data.source: one photograph cannot be split into train and test; at least two are needed")
    num_test = min(max(1, round(len(free) * test_fraction)), len(free) - 1)
    for rank, name in enumerate(free):
        splits[name] = "test" if rank < num_test else "train"
    return splits


def _bundled() -> list[PhotographRef]:
    return [PhotographRef(**photograph) for photograph in bundled_photographs()]


def _prefixes(sources: list[str]) -> list[Path]:
    """The prefix of the names of each source: nothing for a single one, otherwise the part that distinguishes its
    path."""
    if len(sources) == 1:
        return [Path()]
    roots = [Path(_fixed_part(one)).expanduser() for one in sources]
    names = [root.name for root in roots]
    return [Path(root.name if names.count(root.name) == 1 else str(root).strip("/.")) for root in roots]


def _fixed_part(source: str) -> str:
    """The folder in which a glob pattern starts; a folder is returned unchanged."""
    if not glob.has_magic(source) or Path(source).expanduser().exists():
        return source
    parts = Path(source).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:first]))


def _expand(source: str, key: str, seen: set[Path]) -> tuple[Path, list[Path]]:
    """A folder or pattern -> its root and its files."""
    root = Path(_fixed_part(source)).expanduser()
    if str(root) != str(Path(source).expanduser()):
        paths = sorted(Path(path) for path in glob.glob(str(Path(source).expanduser()), recursive=True))
        return root, [path for path in paths if not path.is_dir() and not picture_files.seen_before(path, seen)]
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{key}: {source} {what}; give a folder of photographs, a glob pattern, or `bundled`")
    return root, [path for path in picture_files.walk(root, seen) if not picture_files.seen_before(path, seen)]


def _pictures(files: list[Path], source: str, key: str) -> list[Path]:
    found, others = picture_files.told_apart(files)
    if not found:
        read = " ".join(picture_files.SUFFIXES)
        there = picture_files.counted(others) or "nothing"
        raise UserError(f"{key}: no photographs in {source} (found: {there}); read are {read}")
    if set(others) - set(COMPANIONS):
        passed_over = picture_files.counted(others)
        log.warning("%s: skipped these files in %s by their names: %s", key, source, passed_over)
    return found


def _readable(path: Path) -> str:
    """The path as valid text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _unique_ids(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Name -> id. A photograph's id depends on its own name alone, unless two ids would be equal: then both get a hash
    of their names."""
    slugs = {name: _slug(name) for name in names}
    times = Counter(slug.casefold() for slug in [*slugs.values(), *taken])
    return {
        name: slug if times[slug.casefold()] == 1 and len(slug) <= MAX_ID_LENGTH else f"{slug[:60]}-{_digest(name)[:8]}"
        for name, slug in slugs.items()
    }


def _slug(name: str) -> str:
    stem = name.rsplit(".", 1)[0].replace("/", "--")
    return re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", stem)).strip("-.") or "photograph"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
