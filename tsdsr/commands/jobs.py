"""From what stands on the command line to pairs of an input and an output."""

from __future__ import annotations

import glob
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from tsdsr import picture_files
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)
STANDARD_STREAM = Path("-")
_FILE_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # a suffix, unlike in `holidays.2024`


@dataclass(frozen=True)
class Job:
    """One picture to enlarge; `STANDARD_STREAM` as source or target is stdin or stdout.

    Attributes:
        form: the format to write, None = that of the source.
    """

    source: Path
    target: Path
    form: str | None


@dataclass(frozen=True)
class _Found:
    source: Path
    relative: Path  # below the output folder


def plan_jobs(inputs: list[str], output: str, form: str | None, suffixes: dict[str, tuple[str, ...]]) -> list[Job]:
    """Match inputs with outputs.

    Args:
        inputs: files, folders (searched with their subfolders, hidden ones apart), globs, or `-`.
        output: a file for one file, a folder for several (the tree below a folder is kept), or `-`.
        form: the format to write; None = by the output's name, else that of the input.
        suffixes: of each format's files, the first for new names.

    Raises:
        UserError: for inputs that are not there, and outputs that are ambiguous, would collide or overwrite an input.
    """
    target = Path(output)
    found = [item for pattern in inputs for item in _expand(pattern, target)]
    whole_folder = len(inputs) > 1 or any(Path(pattern).is_dir() for pattern in inputs) or len(found) > 1
    named_form = next((name for name, known in suffixes.items() if target.suffix.lower() in known), None)
    if output == "-" or (named_form and not whole_folder):
        if len(found) > 1:
            raise UserError(f"{len(found)} pictures cannot go to one stream; give a folder with -o")
        if target.is_dir():
            raise UserError(f"{target}: is a folder, though it is named like a picture; choose another -o")
        return _checked([Job(found[0].source, target, form or named_form)])
    if not whole_folder and not target.is_dir() and not output.endswith("/") and _FILE_NAME.search(output):
        raise UserError(f"{target}: files that are written end in {', '.join(sorted(suffixes))}; for a folder add a /")
    if named_form and not target.is_dir():
        raise UserError(f"{target}: names one picture, but there are several inputs; give a folder with -o")
    if target.is_file():
        raise UserError(
            f"{target}: is a file; -o must be a folder, or a name that ends in {', '.join(sorted(suffixes))}"
        )
    return _checked([_below(item, target, form, suffixes) for item in found])


def _expand(pattern: str, target: Path) -> list[_Found]:
    """What an input stands for. Below a folder nothing that lies in the output folder: those are earlier results."""
    path = Path(pattern)
    if pattern == "-":
        return [_Found(STANDARD_STREAM, Path("stdin"))]
    if path.is_dir():
        found, others = picture_files.told_apart(picture_files.walk(path, {target.resolve()} - {path.resolve()}))
        if others:
            logger.info("%s: passed over by their names: %s", path, picture_files.counted(others))
        if not found:
            raise UserError(f"{path}: no pictures in this folder or below it")
        return [_Found(item, item.relative_to(path)) for item in sorted(found)]
    if path.exists():
        return [_Found(path, Path(path.name))]
    if not glob.has_magic(pattern):
        raise UserError(f"{pattern}: no such file or folder")
    files = sorted(item for item in map(Path, glob.glob(pattern, recursive=True)) if item.is_file())
    if not files:
        raise UserError(f"{pattern}: matches no file")
    return [_Found(item, Path(item.name)) for item in files]


def _below(item: _Found, folder: Path, form: str | None, suffixes: dict[str, tuple[str, ...]]) -> Job:
    suffix = item.relative.suffix.lower()
    own = next((name for name, known in suffixes.items() if suffix in known), None)
    chosen = form or own or "png"
    name = item.relative if own == chosen else item.relative.with_suffix(suffixes[chosen][0])
    return Job(item.source, folder / name, chosen)


def _checked(jobs: list[Job]) -> list[Job]:
    seen: dict[Path, Path] = {}
    inputs = {job.source.resolve() for job in jobs if job.source != STANDARD_STREAM}
    for job in jobs:
        if job.target == STANDARD_STREAM:
            continue
        place = job.target.resolve()
        if place in seen:
            raise UserError(f"{seen[place]} and {job.source} would both be written to {job.target}; upscale them apart")
        if place in inputs:
            raise UserError(f"{job.target}: is the input itself, or another one; choose another -o")
        seen[place] = job.source
    return jobs
