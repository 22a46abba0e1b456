"""Write PNG row by row, 8 or 16 bits, grey or RGB, with or without alpha.

Pillow supports neither 16-bit RGB nor writing row by row.

Source: PNG, ISO/IEC 15948:2004 (chunks, the five row filters, the sum-of-differences choice among them).
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

_COLOR_TYPES = {(1, False): 0, (3, False): 2, (1, True): 4, (3, True): 6}
_LEVEL = 6
_INCH = 0.0254  # metres


class PngWriter:
    """A writer of a PNG file.

    Args:
        stream: for the file; it need not be seekable.
        size: (H, W).
        channels: 1 (grey) or 3 (RGB), not counting alpha.
        alpha: whether rows have alpha as an additional last channel.
        bits: 8 or 16.
        icc, exif: metadata to embed; EXIF without the `Exif\\0\\0` prefix.
        dpi: pixels per inch, horizontally and vertically.
    """

    def __init__(
        self,
        stream: BinaryIO,
        size: tuple[int, int],
        *,
        channels: int,
        alpha: bool,
        bits: int,
        icc: bytes | None = None,
        exif: bytes | None = None,
        dpi: tuple[float, float] | None = None,
    ) -> None:
        height, width = size
        depth = channels + alpha
        self._stream = stream
        self._pixel = depth * bits // 8
        self._above = np.zeros(width * self._pixel, np.uint8)
        self._deflate = zlib.compressobj(_LEVEL, strategy=zlib.Z_FILTERED)
        stream.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOR_TYPES[channels, alpha], 0, 0, 0))
        if icc:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
        if dpi:
            self._chunk(b"pHYs", struct.pack(">IIB", *(round(value / _INCH) for value in dpi), 1))
        if exif:
            self._chunk(b"eXIf", exif)

    def write(self, rows: np.ndarray) -> None:
        """Add rows (n, W, channels with alpha), uint8 or uint16 as `bits` says."""
        data = rows.astype(rows.dtype.newbyteorder(">"), copy=False)
        raw = np.frombuffer(data.tobytes(), np.uint8).reshape(len(rows), -1)
        compressed = self._deflate.compress(self._filtered(raw).tobytes())
        if compressed:
            self._chunk(b"IDAT", compressed)
        self._above = raw[-1]

    def close(self) -> None:
        """Finish the file; the stream stays open."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _filtered(self, raw: np.ndarray) -> np.ndarray:
        """Each row after the number of its filter, the one of five with the least sum of absolute differences."""
        x = raw.astype(np.int16)
        above = np.vstack([self._above[None], raw[:-1]]).astype(np.int16)
        left, corner = (np.pad(plane, ((0, 0), (self._pixel, 0)))[:, : -self._pixel] for plane in (x, above))
        predictions = [np.zeros_like(x), left, above, (left + above) >> 1, _paeth(left, above, corner)]
        candidates = np.stack([(x - prediction).astype(np.uint8) for prediction in predictions])
        cost = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        best = cost.argmin(axis=0)
        chosen = candidates[best, np.arange(len(raw))]
        return np.concatenate([best.astype(np.uint8)[:, None], chosen], axis=1)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._stream.write(struct.pack(">I", len(data)) + kind + data)
        self._stream.write(struct.pack(">I", zlib.crc32(kind + data)))


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The neighbour nearest to left + above - corner; ties go to left, then above."""
    to_left, to_above = np.abs(above - corner), np.abs(left - corner)
    to_corner = np.abs(left + above - 2 * corner)
    nearest = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
