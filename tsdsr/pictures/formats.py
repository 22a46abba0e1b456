"""The output formats and their capabilities. To add one: a row of `FORMATS`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import ExifTags, Image, features

from tsdsr.errors import UserError
from tsdsr.pictures.png import PngWriter

logger = logging.getLogger(__name__)
_JPEG_SEGMENT = 65533  # maximum bytes of EXIF in a JPEG file, including its length field
_ICC_SPACE = slice(16, 20)  # in a profile's header: the colour space


class Writer(Protocol):
    """Receives rows (n, W, channels with alpha) from the top; the file is complete after `close`."""

    def write(self, rows: np.ndarray) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Content:
    """The properties of a picture to be written.

    Attributes:
        size: (H, W).
        channels: 1 or 3, not counting alpha.
        alpha: whether it has alpha.
        bits: 8 or 16.
        icc, exif: metadata.
        dpi: pixels per inch, horizontally and vertically, or None.
        quality: 1 to 100, for lossy formats.
    """

    size: tuple[int, int]
    channels: int
    alpha: bool
    bits: int
    icc: bytes | None
    exif: Image.Exif
    quality: int
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffixes: of its files; new ones get the first.
        kinds: its names in Pillow.
        depths: the supported bits per channel.
        alpha: whether it supports alpha.
        max_side: in pixels.
        open: returns a writer.
    """

    suffixes: tuple[str, ...]
    kinds: tuple[str, ...]
    depths: tuple[int, ...]
    alpha: bool
    max_side: int
    open: Callable[[BinaryIO, Content], Writer]


def exif_bytes(exif: Image.Exif, size: tuple[int, int]) -> bytes | None:
    """EXIF with the result's size, without the `Exif` prefix; None if there is none."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for directory in (exif, details, exif.get_ifd(ExifTags.IFD.GPSInfo)):
        for tag, value in directory.items():
            if isinstance(value, str):
                directory[tag] = _StoredText(value)
    for tag, side in ((ExifTags.Base.ExifImageHeight, size[0]), (ExifTags.Base.ExifImageWidth, size[1])):
        if tag in details:
            details[tag] = side
    for tag, side in ((ExifTags.Base.ImageLength, size[0]), (ExifTags.Base.ImageWidth, size[1])):
        if tag in exif:
            exif[tag] = side
    return exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) or details else None


class _StoredText(str):
    """The original bytes of a text of EXIF, so that accents are kept: Pillow reads it as Latin-1 in any case, and would
    write ASCII with question marks."""

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        return super().encode("latin-1", "replace")


class _WholePicture:
    """A writer for formats whose encoder needs the whole picture; it collects rows of 8 or 16 bits."""

    def __init__(self, stream: BinaryIO, content: Content, save: Callable[[BinaryIO, np.ndarray, Content], None]):
        self._stream, self._content, self._save = stream, content, save
        dtype = np.uint8 if content.bits == 8 else np.uint16
        self._pixels = np.empty((*content.size, content.channels + content.alpha), dtype)
        self._row = 0

    def write(self, rows: np.ndarray) -> None:
        self._pixels[self._row : self._row + len(rows)] = rows
        self._row += len(rows)

    def close(self) -> None:
        self._save(self._stream, self._pixels, self._content)


def _pillow(kind: str, **options: Any) -> Callable[[BinaryIO, Content], Writer]:
    """A writer for an 8-bit picture, through Pillow."""

    def save(stream: BinaryIO, pixels: np.ndarray, content: Content) -> None:
        exif = exif_bytes(content.exif, content.size)
        if exif and kind == "JPEG" and len(exif) + 8 > _JPEG_SEGMENT:
            logger.warning("its EXIF data is larger than JPEG can hold and is left out")
            exif = None
        icc = content.icc
        if icc and kind == "WEBP" and icc[_ICC_SPACE] == b"GRAY":
            logger.warning("WebP has no grey, so the colour profile for grey is left out")
            icc = None
        extra: dict[str, Any] = {"exif": b"Exif\0\0" + exif} if exif else {}
        if content.dpi:
            extra["dpi"] = content.dpi  # ignored by formats without it
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(stream, kind, quality=content.quality, icc_profile=icc, **extra, **options)

    return lambda stream, content: _WholePicture(stream, content, save)


def _save_tiff(stream: BinaryIO, pixels: np.ndarray, content: Content) -> None:
    """TIFF through tifffile, which, unlike Pillow, writes 16-bit colour; only the text tags of EXIF are kept."""
    import tifffile

    texts = {tag: _StoredText(value) for tag, value in content.exif.items() if tag in _TEXT_TAGS and value}
    tifffile.imwrite(
        stream,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric="rgb" if content.channels == 3 else "minisblack",
        extrasamples=["unassalpha"] if content.alpha else None,
        compression="zlib",
        predictor=True,
        metadata=None,
        iccprofile=content.icc,
        resolution=content.dpi,
        resolutionunit="inch" if content.dpi else None,
        extratags=[(int(tag), 2, None, text.encode(), True) for tag, text in texts.items()],
    )


_TEXT_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)


def _open_png(stream: BinaryIO, content: Content) -> PngWriter:
    return PngWriter(
        stream,
        content.size,
        channels=content.channels,
        alpha=content.alpha,
        bits=content.bits,
        icc=content.icc,
        exif=exif_bytes(content.exif, content.size),
        dpi=content.dpi,
    )


FORMATS: dict[str, Format] = {
    "png": Format((".png",), ("PNG",), (8, 16), True, 2**31 - 1, _open_png),
    "jpeg": Format((".jpg", ".jpeg", ".jpe"), ("JPEG", "MPO"), (8,), False, 65500, _pillow("JPEG", subsampling=0)),
    "webp": Format((".webp",), ("WEBP",), (8,), True, 16383, _pillow("WEBP", method=4)),
    "avif": Format((".avif",), ("AVIF",), (8,), True, 65535, _pillow("AVIF")),
    "tiff": Format(
        (".tif", ".tiff"), ("TIFF",), (8, 16), True, 2**31 - 1, lambda s, c: _WholePicture(s, c, _save_tiff)
    ),
}


if not features.check("avif"):  # in this build of Pillow
    del FORMATS["avif"]


def by_kind(kind: str) -> str:
    """The format for a name in Pillow; PNG if that format cannot be written."""
    return next((name for name, row in FORMATS.items() if kind in row.kinds), "png")


def check(name: str, size: tuple[int, int]) -> None:
    """Raises:
    UserError: the format does not support pictures of `size` = (H, W).
    """
    if max(size) > FORMATS[name].max_side:
        raise UserError(
            f"{size[1]}x{size[0]} is larger than {name} allows ({FORMATS[name].max_side} pixels a side): use png"
        )
