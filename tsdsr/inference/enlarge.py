"""Enlarge one picture from file to file, with its metadata, alpha and bit depth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from tsdsr.inference.color import smooth
from tsdsr.inference.sizes import TargetSize
from tsdsr.inference.tiles.resample import bicubic_window
from tsdsr.inference.upscaler import DEFAULT_TILING, Color, Tiling, Upscaler
from tsdsr.pictures.formats import FORMATS, Content, check
from tsdsr.pictures.reading import Picture

logger = logging.getLogger(__name__)
_FILL_LEVELS = 5  # levels of blur, each twice as wide: a reach of 31 pixels
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class Settings:
    """The options of an enlargement.

    Attributes:
        target: the size of the result.
        color, tiling: as in `Upscaler.strips`.
        seed: samples the encoder's posterior; None takes its mode.
        quality: 1 to 100, for lossy formats.
    """

    target: TargetSize
    color: Color = "wavelet"
    tiling: Tiling = DEFAULT_TILING
    seed: int | None = None
    quality: int = 95


def enlarge(
    upscaler: Upscaler,
    picture: Picture,
    settings: Settings,
    stream: BinaryIO,
    form: str,
    step: Callable[[int, int], Any] = lambda done, total: None,
) -> tuple[int, int]:
    """Enlarge a picture and write it.

    Grey stays grey, 16 bits stay 16 if the format supports them, alpha is enlarged too (bicubic), the colour profile
    and EXIF are kept. For a format without alpha the picture is blended with white.

    Args:
        picture: the input.
        stream: receives the file, strip by strip if the format allows it.
        form: a key of `FORMATS`.
        step: called with (tiles done, tiles in all).

    Returns:
        (H, W) of the result.

    Raises:
        UserError: the size is impossible.
    """
    height, width = picture.size
    size = settings.target.of(width, height)
    check(form, size)
    content = _content(picture, settings, size, form)
    strips = upscaler.strips(
        _covered(picture.planes(), picture.alpha_plane()),
        size,
        color=settings.color,
        tiling=settings.tiling,
        noise=None if settings.seed is None else _draws(settings.seed),
        step=step,
    )
    writer = FORMATS[form].open(stream, content)
    for rows in _finished(strips, picture, content):
        writer.write(rows)
    writer.close()
    return size


def _draws(seed: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    generator = np.random.default_rng(seed)
    return lambda shape: generator.standard_normal(shape, np.float32)


def _covered(image: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The picture with the visible colours continued into transparent areas. Otherwise the hidden colours, usually
    black, would appear as a fringe around visible parts."""
    if alpha is None:
        return image
    known = (alpha > 0).astype(image.dtype)
    for level in range(_FILL_LEVELS):
        weight = smooth(known, range(level, level + 1))
        mean = smooth(image * known, range(level, level + 1)) / weight.clip(min=1e-6)
        image = np.where((known == 0) & (weight > 0), mean, image)
        known = (weight > 0).astype(image.dtype)
    return image


def _content(picture: Picture, settings: Settings, size: tuple[int, int], form: str) -> Content:
    row = FORMATS[form]
    if picture.alpha is not None and not row.alpha:
        logger.warning("%s supports no transparency: the picture is blended with white", form)
    if picture.bits not in row.depths:
        logger.warning("%s supports no 16-bit pictures: the result has 8 bits per channel", form)
    return Content(
        size=size,
        channels=picture.channels,
        alpha=picture.alpha is not None and row.alpha,
        bits=picture.bits if picture.bits in row.depths else 8,
        icc=picture.icc,
        exif=picture.exif,
        quality=settings.quality,
        dpi=picture.dpi,
    )


def _finished(strips: Iterator[np.ndarray], picture: Picture, content: Content) -> Iterator[np.ndarray]:
    """Strips (1, 3, n, W) in [0, 1] -> rows (n, W, channels with alpha) of integers."""
    alpha = picture.alpha_plane()
    start = 0
    for strip in strips:
        stop = start + strip.shape[2]
        planes = strip[0]
        if content.channels == 1:
            planes = np.tensordot(np.array(_LUMA, np.float32), planes, axes=1)[None]
        if alpha is not None:
            window = bicubic_window(alpha, content.size, rows=(start, stop), columns=(0, content.size[1]))
            cover = window[0].clip(0, 1)
            planes = np.concatenate([planes, cover]) if content.alpha else planes * cover + 1 - cover
        dtype, top = (np.uint8, 255) if content.bits == 8 else (np.uint16, 65535)
        yield np.ascontiguousarray((planes * top).round().astype(dtype).transpose(1, 2, 0))
        start = stop
