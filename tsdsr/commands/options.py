"""Options that several commands share, and their types; argparse reports invalid values."""

from __future__ import annotations

import argparse
import math
from typing import Literal

from tsdsr.inference.sizes import MAX_FACTOR, MIN_FACTOR


def add_model(parser: argparse._ActionsContainer) -> None:
    """The options of the model and the device."""
    parser.add_argument(
        "--model",
        help="a student directory or a name below data/students, an export, or the name of a shipped model (default)",
    )
    parser.add_argument("--teacher", help="the teacher's directory or hub id (default: the student's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "float16", "bfloat16"])


def add_size(parser: argparse.ArgumentParser) -> None:
    """The options of the result's size."""
    size = parser.add_argument_group("size", "at most one of these; by default the student's scale")
    size.add_argument("--scale", type=scale, help="1 to 8")
    size.add_argument("--width", type=count, help="pixels")
    size.add_argument("--height", type=count, help="pixels")
    size.add_argument("--longest-side", type=count, help="pixels")
    size.add_argument("--megapixels", type=amount, help="millions of pixels")


def add_tiling(parser: argparse.ArgumentParser) -> None:
    """The options of tiling."""
    tiles = parser.add_argument_group("tiles")
    tiles.add_argument(
        "--tile", type=tile, default="auto", help="side of a tile in pixels of the result, or auto (by memory)"
    )
    tiles.add_argument(
        "--overlap", type=whole, help="pixels that neighbouring tiles share (default: a quarter of a tile)"
    )
    tiles.add_argument("--batch", type=count, default=1, help="number of tiles in a batch")


def tile(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else count(text)


def count(text: str) -> int:
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number") from None


def seed(text: str) -> int:
    value = whole(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 2^64 - 1")
    return value


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def scale(text: str) -> float:
    value = amount(text)
    if not MIN_FACTOR <= value <= MAX_FACTOR:
        raise argparse.ArgumentTypeError(f"{text} is not {MIN_FACTOR:g} to {MAX_FACTOR:g}")
    return value


def quality(text: str) -> int:
    value = whole(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 100")
    return value
