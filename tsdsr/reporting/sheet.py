"""The before/after sheet: one row per image with the LQ input (pixels visible), bicubic, the student, and HQ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tsdsr.errors import UserError

GAP, HEADER, FOOTER = 10, 30, 24
PAPER, INK, FAINT = (255, 255, 255), (34, 39, 46), (104, 112, 122)


@dataclass(frozen=True)
class Tile:
    """One image of a row, with the line under it (its scores, or empty)."""

    image: Image.Image
    footer: str = ""


def pick(ids: Sequence[str], count: int) -> list[str]:
    """`count` of the sorted ids, evenly spaced, so chosen by position and not by appearance."""
    ordered = sorted(ids)
    if count >= len(ordered):
        return ordered
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def read(path: Path) -> Image.Image:
    """An 8-bit RGB image.

    Raises:
        UserError: the file is absent or unreadable.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; run the stages before the report again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from None


def compose(headings: Sequence[str], rows: Sequence[Sequence[Tile]], reference: int) -> Image.Image:
    """The sheet as one image.

    Args:
        headings: one a column.
        rows: as many tiles each as there are headings.
        reference: index of the column to whose size the others are enlarged (by nearest neighbour, so that pixels stay
        visible).
    """
    size = [max(side) for side in zip(*(row[reference].image.size for row in rows), strict=True)]
    title, small = ImageFont.load_default(15), ImageFont.load_default(13)
    footers = [tile.footer for row in rows for tile in row]
    texts = [title.getlength(heading) for heading in headings] + [small.getlength(footer) for footer in footers]
    column_width = max(size[0], math.ceil(max(texts)))  # the text under a small picture is wider than it
    width = GAP + len(headings) * (column_width + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (size[1] + FOOTER + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * (column_width + GAP), 7), heading, fill=INK, font=title)
    for index, row in enumerate(rows):
        top = HEADER + index * (size[1] + FOOTER + GAP)
        target = row[reference].image.size
        for column, tile in enumerate(row):
            left = GAP + column * (column_width + GAP)
            sheet.paste(tile.image.resize(target, Image.Resampling.NEAREST), (left, top))
            pen.text((left, top + target[1] + 5), tile.footer, fill=FAINT, font=small)
    return sheet


def scores_line(scores: Mapping[str, float]) -> str:
    """`PSNR 25.31 dB, SSIM 0.712`, of what there is."""
    parts = []
    if "psnr" in scores:
        parts.append(f"PSNR {scores['psnr']:.2f} dB")
    if "ssim" in scores:
        parts.append(f"SSIM {scores['ssim']:.3f}")
    return ", ".join(parts)
