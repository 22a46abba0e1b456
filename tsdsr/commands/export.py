"""`tsdsr export`: write a student in another form."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.files import atomic_directory

logger = logging.getLogger(__name__)
FORMS = {
    "pipeline": "one streamlined TSDSRPipeline that needs no teacher",
    "onnx": "three graphs that run without PyTorch, weights in float16",
    "diffusers": "plain diffusers networks with merged adapters, which need no tsdsr",
    "package": "teacher, student, graphs and checksums, in the form of the shipped models",
}
# Files that mark an earlier export, of any form.
_MARKS = ("model_index.json", "upscaler.json", "step.json", "SHA256SUMS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    forms = "; ".join(f"{name}: {text}" for name, text in FORMS.items())
    parser.add_argument(
        "-o", "--output", required=True, type=Path, help="the directory to write; an earlier export is replaced"
    )
    parser.add_argument("--as", dest="form", default="pipeline", choices=FORMS, help=f"{forms} (default: pipeline)")
    parser.add_argument("--model", default="full", help="a student directory, or a name below data/students")
    parser.add_argument("--teacher", help="the teacher's directory or hub id (default: the student's)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="dtype of the weights of a pipeline or network (default: float32)",
    )
    parser.add_argument("--card", action="store_true", help="also write README.md, a model card with the run's scores")


def run(args: argparse.Namespace) -> int:
    """Returns: 0 if everything was written."""
    from tsdsr.inference.opening import find_model

    place = find_model(args.model).student
    _check(args, place)
    with atomic_directory(args.output) as aside:
        {"diffusers": _diffusers, "package": _package}.get(args.form, _merged)(args, place, aside)
    sizes = [path.stat().st_size for path in args.output.rglob("*") if path.is_file()]
    logger.info("%s: %d files, %.1f MB", args.output, len(sizes), sum(sizes) / 1e6)
    return 0


def _merged(args: argparse.Namespace, place: Path, aside: Path) -> None:
    from tsdsr.export.card import write_card
    from tsdsr.export.graphs import export_graphs
    from tsdsr.inference.opening import find_model

    model = find_model(str(place), teacher=args.teacher, dtype=args.dtype or "float32", device="cpu")
    if args.form == "onnx":
        _report(export_graphs(model.pipeline(), aside))
    else:
        model.pipeline().save_pretrained(aside)
    if args.card:
        write_card(place, aside, args.output.name, args.form)


def _diffusers(args: argparse.Namespace, place: Path, aside: Path) -> None:
    import torch

    from tsdsr.export.card import write_card
    from tsdsr.export.plain import export_plain
    from tsdsr.inference.loading import teacher_of

    export_plain(args.teacher or teacher_of(place), place, aside, dtype=getattr(torch, args.dtype or "float32"))
    if args.card:
        write_card(place, aside, args.output.name, args.form)


def _package(args: argparse.Namespace, place: Path, aside: Path) -> None:
    from tsdsr.export.package import write_package
    from tsdsr.inference.loading import teacher_of

    _report(write_package(Path(args.teacher or teacher_of(place)), place, aside, args.output.name, args.output))


def _report(difference: float) -> None:
    logger.info("the graphs differ from PyTorch by at most %.1e of the largest value", difference)


def _check(args: argparse.Namespace, place: Path) -> None:
    from tsdsr.inference.opening import SAVED

    if args.output.is_file() or (args.output.is_dir() and any(args.output.iterdir()) and not _is_export(args.output)):
        raise UserError(f"{args.output}: exists and is not an earlier export; choose another -o")
    if args.output.resolve() in (place.resolve(), place.resolve().parent):
        raise UserError(f"{args.output}: contains the model itself; choose another -o")
    is_student = (place / "student.json").is_file()
    if (args.card or args.form == "package") and not is_student:
        raise UserError(f"{place}: a model card needs a student directory")
    if args.form == "diffusers" and (place / SAVED).is_file():
        raise UserError(f"{place}: --as diffusers takes a student directory; an export is streamlined already")
    if args.dtype and args.form in ("onnx", "package"):
        raise UserError(f"--as {args.form} stores weights in float16: leave out --dtype")


def _is_export(directory: Path) -> bool:
    return any((directory / mark).is_file() for mark in _MARKS)
