"""`tsdsr upscale`: enlarge files, folders, globs or standard input."""

from __future__ import annotations

import argparse
import io
import logging
import math
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from tsdsr.commands.jobs import STANDARD_STREAM, Job, plan_jobs
from tsdsr.errors import UserError
from tsdsr.files import atomic_file
from tsdsr.inference.sizes import MAX_FACTOR, MIN_FACTOR

if TYPE_CHECKING:
    from tsdsr.inference.enlarge import Settings
    from tsdsr.inference.pipeline import TSDSRPipeline

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options. Nothing heavy is imported for them."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, globs, or - for standard input")
    parser.add_argument("-o", "--output", required=True, help="a file; a folder for several; - for standard output")
    _add_size(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="full", help="a student's directory or its name below data/students; or an export"
    )
    model.add_argument("--teacher", help="the teacher's directory or hub id; that of the student by default")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument("--dtype", default="auto", choices=["auto", "float32", "float16", "bfloat16"])
    model.add_argument("--seed", type=_seed, help="sample the encoder's posterior with this seed, not its mode")
    add_tiling(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--color", default="wavelet", choices=["wavelet", "adain", "none"], help="colour alignment")
    out.add_argument("--format", choices=["png", "jpeg", "webp", "tiff"], help="that of the name, else of the input")
    out.add_argument("--quality", type=_quality, default=95, help="1 to 100, for jpeg and webp")
    out.add_argument("--skip-existing", action="store_true", help="leave outputs that are already there")


def _add_size(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size", "one of these; the student's own scale by default")
    size.add_argument("--scale", type=_scale, help="1 to 8")
    size.add_argument("--width", type=_count, help="pixels")
    size.add_argument("--height", type=_count, help="pixels")
    size.add_argument("--longest-side", type=_count, help="pixels")
    size.add_argument("--megapixels", type=amount, help="millions of pixels")


def add_tiling(parser: argparse.ArgumentParser) -> None:
    """The options about tiles."""
    tiles = parser.add_argument_group("tiles")
    tiles.add_argument("--tile", type=_tile, default="auto", help="a side in pixels of the result, or auto (by memory)")
    tiles.add_argument("--overlap", type=_whole, help="pixels that neighbours share; a quarter of a tile by default")
    tiles.add_argument("--batch", type=_count, default=1, help="tiles that go through the model at once")


def _tile(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else _count(text)


def _count(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number") from None


def _seed(text: str) -> int:
    value = _whole(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 2^64 - 1")
    return value


def amount(text: str) -> float:
    """What an option takes that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _scale(text: str) -> float:
    value = amount(text)
    if not MIN_FACTOR <= value <= MAX_FACTOR:
        raise argparse.ArgumentTypeError(f"{text} is not {MIN_FACTOR:g} to {MAX_FACTOR:g}")
    return value


def _quality(text: str) -> int:
    value = _whole(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 100")
    return value


def run(args: argparse.Namespace) -> int:
    """Returns: 0 if every picture was written (or was there already), 1 if some were not."""
    from tsdsr.pictures.formats import FORMATS

    suffixes = {name: row.suffixes for name, row in FORMATS.items()}
    jobs = plan_jobs(args.inputs, args.output, args.format, suffixes)
    _check_streams(jobs)
    waiting = [job for job in jobs if not (args.skip_existing and job.target.exists())]
    done, failed = 0, 0
    started = time.monotonic()
    if waiting:
        from tsdsr.inference.opening import open_pipeline

        pipe = open_pipeline(args.model, teacher=args.teacher, dtype=args.dtype, device=args.device)
        settings = _settings(args, pipe)
        pipe.check_tiles(args.tile, args.overlap, args.batch)
        with _progress(waiting, settings) as steps:
            for job in waiting:
                ok = _attempt(pipe, job, settings, steps(job))
                done, failed = done + ok, failed + (not ok)
    logger.info(
        "%d of %d upscaled, %d failed, %d there already; %.1f s",
        *(done, len(jobs), failed, len(jobs) - len(waiting), time.monotonic() - started),
    )
    return 1 if failed else 0


def _check_streams(jobs: list[Job]) -> None:
    """Raises: UserError: where a standard stream is to be used that the caller has closed; Python then has none."""
    for job in jobs:
        for path, stream, name in ((job.source, sys.stdin, "input"), (job.target, sys.stdout, "output")):
            if path == STANDARD_STREAM and stream is None:
                raise UserError(f"standard {name} is closed")


def _settings(args: argparse.Namespace, pipe: TSDSRPipeline) -> Settings:
    from tsdsr.inference.enlarge import Settings
    from tsdsr.inference.sizes import TargetSize

    ways = (args.width, args.height, args.longest_side, args.megapixels)
    scale = args.scale if args.scale or any(way is not None for way in ways) else float(pipe.config.scale)
    return Settings(
        target=TargetSize(scale, *ways),
        color=args.color,
        tile=args.tile,
        overlap=args.overlap,
        tile_batch=args.batch,
        seed=args.seed,
        quality=args.quality,
    )


def _attempt(pipe: TSDSRPipeline, job: Job, settings: Settings, step: Callable[[int, int], Any]) -> bool:
    """Whether the picture was written; if not, one line says why."""
    try:
        _upscale(pipe, job, settings, step)
    except UserError as error:
        text, name = str(error), _name(job.source)
        logger.error("error: %s", _line(text if text.startswith((name, str(job.target))) else f"{name}: {text}"))
    except (OSError, MemoryError) as error:  # no space, no permission, out of memory
        named = getattr(error, "filename", None)  # perhaps of the file aside, of which nobody knows
        known = named in [str(path) for path in (job.source, *job.target.parents)]
        logger.error("error: %s: %s", _line(str(named if known else job.target)), _reason(error))
    else:
        return True
    return False


def _line(text: str) -> str:
    """A message in one line, whatever characters the names of files have."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


def _name(source: Path) -> str:
    return "standard input" if source == STANDARD_STREAM else str(source)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "out of memory"


def _upscale(pipe: TSDSRPipeline, job: Job, settings: Settings, step: Callable[[int, int], Any]) -> None:
    from tsdsr.inference.enlarge import enlarge
    from tsdsr.pictures.formats import by_kind
    from tsdsr.pictures.reading import read_picture

    picture = read_picture(sys.stdin.buffer if job.source == STANDARD_STREAM else job.source, _name(job.source))
    form = job.form or by_kind(picture.kind)
    with _destination(job.target) as stream:
        enlarge(pipe, picture, settings, stream, form, step)


@contextmanager
def _destination(target: Path) -> Iterator[BinaryIO]:
    """The file, whole or absent; for standard output everything at once at the end."""
    if target == STANDARD_STREAM:
        buffer = io.BytesIO()
        yield buffer
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    with atomic_file(target) as aside, aside.open("wb") as stream:
        yield stream


@contextmanager
def _progress(jobs: list[Job], settings: Settings) -> Iterator[Callable[[Job], Callable[[int, int], None]]]:
    """A bar over the megapixels of all jobs, with the time left; for each job, what takes its (tiles done, in all)."""
    from tqdm.auto import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    areas = {job: _megapixels(job, settings) for job in jobs}
    form = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} MP [{elapsed}<{remaining}]{postfix}"
    with tqdm(total=sum(areas.values()), disable=None, bar_format=form) as bar, logging_redirect_tqdm():

        def steps(job: Job) -> Callable[[int, int], None]:
            bar.set_postfix_str(job.source.name)
            before = bar.n

            def step(finished: int, total: int) -> None:
                bar.update(before + areas[job] * finished / total - bar.n)

            return step

        yield steps


def _megapixels(job: Job, settings: Settings) -> float:
    """Of the result, from the input's header; of one that cannot be read, 0: its turn will say why."""
    from tsdsr.pictures.reading import read_size

    if job.source == STANDARD_STREAM or not job.source.is_file():  # a pipe can be read only once
        return 1.0
    try:
        height, width = settings.target.of(*read_size(job.source))
    except (UserError, OSError):
        return 0.0
    return height * width / 1e6
