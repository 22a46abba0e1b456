"""`tsdsr export`: a student as one directory that needs no teacher, and as ONNX."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.files import atomic_directory

logger = logging.getLogger(__name__)
ONNX_FILE = Path("onnx") / "model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "-o", "--output", required=True, type=Path, help="the directory to write; replaced if it exists"
    )
    parser.add_argument("--model", default="full", help="a student's directory, or its name below data/students")
    parser.add_argument("--teacher", help="the teacher's directory or hub id; that of the student by default")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"], help="of the weights")
    parser.add_argument(
        "--onnx", type=_size, metavar="SIZE", help="also onnx/model.onnx: `dynamic`, or WIDTHxHEIGHT of its picture"
    )
    parser.add_argument(
        "--plain", action="store_true", help="plain diffusers networks, adapters merged, that need nothing of tsdsr"
    )
    parser.add_argument("--card", action="store_true", help="also README.md: a model card with the run's scores")


def _size(text: str) -> tuple[int, int] | str:
    if text == "dynamic":
        return text
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text} is neither `dynamic` nor WIDTHxHEIGHT")
    return int(height), int(width)


def run(args: argparse.Namespace) -> int:
    """Returns: 0 when everything asked for was written."""
    from tsdsr.inference.opening import find_model

    place = find_model(args.model)
    _check(args, place)
    count = (_plain if args.plain else _whole)(args, place)
    logger.info("%s: %.1f M parameters", args.output, count / 1e6)
    return 0


def _whole(args: argparse.Namespace, place: Path) -> int:
    from tsdsr.export.card import write_card
    from tsdsr.export.onnx import export_onnx
    from tsdsr.inference.opening import open_pipeline

    pipe = open_pipeline(args.model, teacher=args.teacher, dtype=args.dtype, device="cpu")
    with atomic_directory(args.output) as aside:
        pipe.save_pretrained(aside)
        if args.onnx:
            (aside / ONNX_FILE.parent).mkdir()
            difference = export_onnx(pipe, aside / ONNX_FILE, None if args.onnx == "dynamic" else args.onnx)
            logger.info("%s: at most %.1e from PyTorch, of a range of 2", ONNX_FILE, difference)
        if args.card:
            write_card(place, aside, args.output.name)
    return sum(parameter.numel() for part in (pipe.vae, pipe.transformer) for parameter in part.parameters())


def _plain(args: argparse.Namespace, place: Path) -> int:
    import torch

    from tsdsr.export.card import write_card
    from tsdsr.export.plain import export_plain
    from tsdsr.inference.loading import teacher_of

    with atomic_directory(args.output) as aside:
        count = export_plain(args.teacher or teacher_of(place), place, aside, dtype=getattr(torch, args.dtype))
        if args.card:
            write_card(place, aside, args.output.name, plain=True)
    return count


def _check(args: argparse.Namespace, place: Path) -> None:
    from tsdsr.inference.opening import SAVED

    if args.output.is_file() or (args.output.is_dir() and any(args.output.iterdir()) and not _is_export(args.output)):
        raise UserError(f"{args.output}: exists and is no earlier export; choose another -o")
    if args.output.resolve() == place.resolve():
        raise UserError(f"{args.output}: is the model itself; choose another -o")
    if args.card and not (place / "student.json").is_file():
        raise UserError(f"{place}: only a student directory has what a card tells")
    if args.plain and (place / SAVED).is_file():
        raise UserError(f"{place}: --plain takes a student directory; an export is streamlined already")
    if args.plain and args.onnx:
        raise UserError("--onnx is a part of the other export: leave out --plain")
    if args.onnx and args.dtype != "float32":
        raise UserError(f"--onnx is written in float32, not {args.dtype}")


def _is_export(directory: Path) -> bool:
    index = directory / "model_index.json"
    whole = index.is_file() and "TSDSRPipeline" in index.read_text(encoding="utf-8")
    return whole or all((directory / name).is_file() for name in ("step.json", "prompt.safetensors"))
