"""Turn the command line's arguments into pairs of an input and an output."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from tsdsr import picture_files
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)
STANDARD_STREAM = Path("-")
_ADDED = "-upscaled"  # appended to the input's name if no output is named
_FILE_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # a real suffix, unlike that of `holidays.2024`


@dataclass(frozen=True)
class Job:
    """One picture to enlarge; `STANDARD_STREAM` as source or target is stdin or stdout.

    Attributes:
        form: the format to write; None = the source's.
    """

    source: Path
    target: Path
    form: str | None


@dataclass(frozen=True)
class _Found:
    source: Path
    relative: Path  # below the output folder


def plan_jobs(
    inputs: list[str], output: str | None, form: str | None, suffixes: dict[str, tuple[str, ...]]
) -> list[Job]:
    """Assign an output to each input.

    Args:
        inputs: files, folders (searched with their subfolders, hidden ones apart), globs, or `-`.
        output: a file for one file, a folder for several (the tree below a folder is kept), or `-`; None = beside each
            input, under its name with `-upscaled` added, and standard output for standard input.
        form: the format to write; None = by the output's name, otherwise the input's.
        suffixes: format -> its file suffixes; the first is used for new names.

    Returns:
        one job per picture. If two would be written to the same file, one gets another name, which is logged.

    Raises:
        UserError: an input does not exist, or an output is ambiguous or would overwrite an input.
    """
    if output is None:
        return _apart([job for pattern in inputs for job in _beside(pattern, form, suffixes)])
    target = Path(output)
    found = [item for pattern in inputs for item in _expand(pattern, target)]
    whole_folder = len(inputs) > 1 or any(Path(pattern).is_dir() for pattern in inputs) or len(found) > 1
    named_form = next((name for name, known in suffixes.items() if target.suffix.lower() in known), None)
    if output == "-" or (named_form and not whole_folder):
        if len(found) > 1:
            raise UserError(f"{len(found)} pictures cannot go to one stream; give a folder with -o")
        if target.is_dir():
            raise UserError(f"{target}: is a folder, though it is named like a picture; choose another -o")
        return _apart([Job(found[0].source, target, form or named_form)])
    if not whole_folder and not target.is_dir() and not output.endswith("/") and _FILE_NAME.search(output):
        raise UserError(f"{target}: files that are written end in {', '.join(sorted(suffixes))}; for a folder add a /")
    if named_form and not target.is_dir():
        raise UserError(f"{target}: names one picture, but there are several inputs; give a folder with -o")
    if target.is_file():
        raise UserError(
            f"{target}: is a file; -o must be a folder, or a name that ends in {', '.join(sorted(suffixes))}"
        )
    return _apart([_below(item, target, form, suffixes) for item in found])


def _beside(pattern: str, form: str | None, suffixes: dict[str, tuple[str, ...]]) -> list[Job]:
    """The jobs of an input without a named output."""
    if pattern == "-":
        return [Job(STANDARD_STREAM, STANDARD_STREAM, form)]
    path = Path(pattern)
    if path.is_dir():
        folder = path.resolve()
        folder = folder.with_name(folder.name + _ADDED)
        return [_below(item, folder, form, suffixes) for item in _expand(pattern, folder)]
    jobs = []
    for item in _expand(pattern, path):
        name = item.source.with_name(f"{item.source.stem}{_ADDED}{item.source.suffix}").name
        jobs.append(_below(_Found(item.source, Path(name)), item.source.parent, form, suffixes))
    return jobs


def _expand(pattern: str, target: Path) -> list[_Found]:
    """The files of an input. Files in the output folder, if it is below an input folder, are skipped as earlier
    results."""
    path = Path(pattern)
    if pattern == "-":
        return [_Found(STANDARD_STREAM, Path("stdin"))]
    if path.is_dir():
        files = picture_files.walk(path, {target.resolve()} - {path.resolve()})
        found, others = picture_files.told_apart(files, (*picture_files.SUFFIXES, *picture_files.HEIF_SUFFIXES))
        if others:
            logger.info("%s: skipped, by their names: %s", path, picture_files.counted(others))
        if not found:
            raise UserError(f"{path}: contains no pictures, also not in subfolders")
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


def _apart(jobs: list[Job]) -> list[Job]:
    """The jobs with distinct targets; a picture that is named twice is enlarged once.

    Raises:
        UserError: a target is an input.
    """
    once = list({job.source.resolve() if job.source != STANDARD_STREAM else job.source: job for job in jobs}.values())
    inputs = {job.source.resolve() for job in once if job.source != STANDARD_STREAM}
    taken = set(inputs)
    placed: dict[Job, Job] = {}
    for job in sorted(once, key=lambda job: job.source.suffix != job.target.suffix):  # who keeps a suffix keeps a name
        if job.target == STANDARD_STREAM:
            placed[job] = job
            continue
        if job.target.resolve() in inputs:
            raise UserError(f"{job.target}: is one of the inputs; choose another -o")
        target = next(name for name in _names(job) if name.resolve() not in taken)
        if target != job.target:
            logger.warning("%s goes to %s: another input is written to %s", job.source, target, job.target)
        taken.add(target.resolve())
        placed[job] = replace(job, target=target)
    return [placed[job] for job in once]


def _names(job: Job) -> Iterator[Path]:
    """Candidates for a target's name: as planned, then `a.bmp.png` for `a.bmp`, then numbered."""
    yield job.target
    if job.source.suffix != job.target.suffix:
        yield job.target.with_name(job.target.stem + job.source.suffix + job.target.suffix)
    for number in count(2):
        yield job.target.with_name(f"{job.target.stem}-{number}{job.target.suffix}")
