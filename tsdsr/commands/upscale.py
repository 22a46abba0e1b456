"""`tsdsr upscale`: enlarge files, folders, globs or standard input."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tsdsr.commands import options
from tsdsr.commands.jobs import STANDARD_STREAM, Job, plan_jobs
from tsdsr.errors import UserError
from tsdsr.files import atomic_file
from tsdsr.inference.enlarge import Settings, enlarge
from tsdsr.inference.opening import Model, find_model
from tsdsr.inference.sizes import TargetSize
from tsdsr.inference.upscaler import Tiling, Upscaler
from tsdsr.pictures.formats import FORMATS, by_kind, check
from tsdsr.pictures.reading import Picture, read_picture, read_size

T = TypeVar("T")
logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, without importing PyTorch."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, globs, or - for standard input")
    parser.add_argument(
        "-o", "--output", help="a file, a folder for several, or - for standard output (default: beside the input)"
    )
    options.add_size(parser)
    model = parser.add_argument_group("model")
    options.add_model(model)
    model.add_argument(
        "--seed", type=options.seed, help="sample the encoder's posterior with this seed instead of taking its mode"
    )
    options.add_tiling(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--color", default="wavelet", choices=["wavelet", "adain", "none"], help="colour alignment")
    out.add_argument(
        "--format", choices=sorted(FORMATS), help="format (default: by the output's name, otherwise the input's)"
    )
    out.add_argument("--quality", type=options.quality, default=95, help="quality of jpeg and webp, 1 to 100")
    out.add_argument("--skip-existing", action="store_true", help="skip inputs whose output exists")


def run(args: argparse.Namespace) -> int:
    """Returns: 0 if every picture was written or existed, otherwise 1."""
    jobs = plan_jobs(args.inputs, args.output, args.format, {name: row.suffixes for name, row in FORMATS.items()})
    _check_streams(jobs)
    waiting = [job for job in jobs if not (args.skip_existing and job.target.exists())]
    started, written = time.monotonic(), 0
    if waiting:
        model = find_model(args.model, teacher=args.teacher, dtype=args.dtype, device=args.device)
        written = _upscale_all(waiting, model, _settings(args, model.scale))
    logger.info(
        "%d of %d upscaled, %d failed, %d there already; %.1f s",
        *(written, len(jobs), len(waiting) - written, len(jobs) - len(waiting), time.monotonic() - started),
    )
    return 1 if written < len(waiting) else 0


def _check_streams(jobs: list[Job]) -> None:
    """Raises: UserError: a standard stream is needed that the caller has closed."""
    for job in jobs:
        for path, stream, name in ((job.source, sys.stdin, "input"), (job.target, sys.stdout, "output")):
            if path == STANDARD_STREAM and stream is None:
                raise UserError(f"standard {name} is closed")


def _settings(args: argparse.Namespace, scale: float) -> Settings:
    ways = (args.width, args.height, args.longest_side, args.megapixels)
    factor = args.scale if args.scale or any(way is not None for way in ways) else scale
    return Settings(
        target=TargetSize(factor, *ways),
        color=args.color,
        tiling=Tiling(args.tile, args.overlap, args.batch),
        seed=args.seed,
        quality=args.quality,
    )


def _upscale_all(jobs: list[Job], model: Model, settings: Settings) -> int:
    """The number of written pictures. The model is loaded at the first readable picture, so that a bad file is reported
    at once."""
    areas = {job: area for job in jobs if (area := _attempt(job, lambda job: _megapixels(job, settings)))}
    upscaler: Upscaler | None = None
    written = 0
    with _progress(areas) as steps:
        for job in areas:
            picture = _attempt(job, _read)
            if picture is None:
                continue
            if upscaler is None:
                upscaler = model.open()
                upscaler.check_tiling(settings.tiling)
            written += _attempt(job, _writing(upscaler, picture, settings, steps(job))) is not None
    return written


def _attempt(job: Job, work: Callable[[Job], T]) -> T | None:
    """The result of the work on a picture; None if it failed, after logging the reason in one line."""
    try:
        return work(job)
    except UserError as error:
        text, name = str(error), _name(job.source)
        logger.error("error: %s", _line(text if text.startswith((name, str(job.target))) else f"{name}: {text}"))
    except (OSError, MemoryError) as error:  # no space, no permission, out of memory
        named = getattr(error, "filename", None)  # it may name the temporary file
        known = named in [str(path) for path in (job.source, *job.target.parents)]
        logger.error("error: %s: %s", _line(str(named if known else job.target)), _reason(error))
    return None


def _line(text: str) -> str:
    """A message in one line, with control characters in file names escaped."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


def _name(source: Path) -> str:
    return "standard input" if source == STANDARD_STREAM else str(source)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "out of memory"


def _read(job: Job) -> Picture:
    return read_picture(sys.stdin.buffer if job.source == STANDARD_STREAM else job.source, _name(job.source))


def _writing(
    upscaler: Upscaler, picture: Picture, settings: Settings, step: Callable[[int, int], Any]
) -> Callable[[Job], tuple[int, int]]:
    """Enlarge this picture, write it to the job's target, and return the result's (H, W)."""

    def write(job: Job) -> tuple[int, int]:
        started = time.monotonic()
        with _destination(job.target) as stream:
            size = enlarge(upscaler, picture, settings, stream, job.form or by_kind(picture.kind), step)
        if not _is_terminal():
            words = (_line(_name(job.source)), _line(str(job.target)), size[1], size[0], time.monotonic() - started)
            logger.info("%s -> %s: %dx%d, %.1f s", *words)
        return size

    return write


@contextmanager
def _destination(target: Path) -> Iterator[BinaryIO]:
    """Write the file completely or not at all; standard output receives everything at the end."""
    if target == STANDARD_STREAM:
        buffer = io.BytesIO()
        yield buffer
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    with atomic_file(target) as aside, aside.open("wb") as stream:
        yield stream


@contextmanager
def _progress(areas: dict[Job, float]) -> Iterator[Callable[[Job], Callable[[int, int], None]]]:
    """On a terminal, a progress bar over the megapixels of all jobs; otherwise nothing, since each file is logged.

    Yields:
        for each job, a callback with (tiles done, tiles in all).
    """
    if not _is_terminal():
        yield lambda job: lambda finished, total: None
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    form = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} MP [{elapsed}<{remaining}]{postfix}"
    with tqdm(total=sum(areas.values()), bar_format=form) as bar, logging_redirect_tqdm():

        def steps(job: Job) -> Callable[[int, int], None]:
            bar.set_postfix_str(job.source.name)
            before = bar.n

            def step(finished: int, total: int) -> None:
                bar.update(before + areas[job] * finished / total - bar.n)

            return step

        yield steps


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _megapixels(job: Job, settings: Settings) -> float:
    """The result's megapixels, from the input's header.

    Raises:
        UserError: the header cannot be read, or the size is impossible.
    """
    if job.source == STANDARD_STREAM or (job.source.exists() and not job.source.is_file()):  # a pipe is read only once
        return 1.0
    width, height = read_size(job.source)
    height, width = settings.target.of(width, height)
    if job.form is not None:
        check(job.form, (height, width))
    return height * width / 1e6
