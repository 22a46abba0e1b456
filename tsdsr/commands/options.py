"""Options that commands share, and what they accept: argparse says what is wrong with the rest."""

from __future__ import annotations

import argparse
import math
from typing import Literal

from tsdsr.inference.sizes import MAX_FACTOR, MIN_FACTOR


def add_model(parser: argparse._ActionsContainer) -> None:
    """Which model, and where it runs."""
    parser.add_argument(
        "--model", help="a student's directory or its name below data/students, an export, or a shipped model (default)"
    )
    parser.add_argument("--teacher", help="the teacher's directory or hub id; that of the student by default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "float16", "bfloat16"])


def add_size(parser: argparse.ArgumentParser) -> None:
    """The result's size, in one of several ways."""
    size = parser.add_argument_group("size", "one of these; the student's own scale by default")
    size.add_argument("--scale", type=scale, help="1 to 8")
    size.add_argument("--width", type=count, help="pixels")
    size.add_argument("--height", type=count, help="pixels")
    size.add_argument("--longest-side", type=count, help="pixels")
    size.add_argument("--megapixels", type=amount, help="millions of pixels")


def add_tiling(parser: argparse.ArgumentParser) -> None:
    """The options about tiles."""
    tiles = parser.add_argument_group("tiles")
    tiles.add_argument("--tile", type=tile, default="auto", help="a side in pixels of the result, or auto (by memory)")
    tiles.add_argument("--overlap", type=whole, help="pixels that neighbours share; a quarter of a tile by default")
    tiles.add_argument("--batch", type=count, default=1, help="tiles that go through the model at once")


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
