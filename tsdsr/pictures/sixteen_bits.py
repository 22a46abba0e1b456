"""Decode colour with 16 bits per channel by libvips; Pillow would reduce it to 8.

libvips is used for these pictures only. It reads no BMP, and Pillow's readers also return the tags from which EXIF is
written.
"""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image

from tsdsr.errors import UserError

_BITS_PER_SAMPLE, _EXTRA_SAMPLES = 258, 338  # tags of TIFF
_UNSPECIFIED = 0  # an extra sample that is not alpha
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs too much about damaged files
logging.getLogger("pyvips").setLevel(logging.CRITICAL)


def open_grey_with_alpha(data: bytes) -> Image.Image | None:
    """The header of a TIFF with 16 bits of grey and alpha, opened with a declared depth of 8, which Pillow needs; None
    for others."""
    import tifffile

    stream = io.BytesIO(data)
    try:
        with tifffile.TiffFile(stream, mode="r+") as file:
            bits = file.pages.first.tags[_BITS_PER_SAMPLE]
            if bits.value != (16, 16):
                return None
            bits.overwrite((8, 8))
    except Exception:  # tifffile raises many types for damaged data
        return None
    image = Image.open(io.BytesIO(stream.getvalue()))
    image.tag_v2[_BITS_PER_SAMPLE] = (16, 16)  # type: ignore[attr-defined]
    return image


def has_16_bit_colour(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would reduce 16 bits of colour to 8.

    Args:
        image: opened, not decoded.
        data: the file.
    """
    if image.format == "PNG":
        depth, color_type = data[24:26]  # of the header chunk, which comes first
        return depth == 16 and color_type != 0
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, ()) if image.format == "TIFF" else ()  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) == 16


def decode_16_bit(image: Image.Image, data: bytes) -> np.ndarray:
    """The stored pixels, without the orientation: (H, W, 2 to 4), uint16; alpha is not premultiplied.

    Raises:
        UserError: the data is damaged, or the kind of TIFF is not supported.
    """
    import pyvips  # imported here, since few pictures need it and it is slow

    try:
        picture = pyvips.Image.new_from_buffer(data, "", fail_on="error")
        if picture.interpretation not in ("rgb16", "grey16"):
            raise UserError(f"is a TIFF of 16 bits in {picture.interpretation.upper()}; save it in RGB")
        array = picture.numpy()
    except pyvips.Error:
        raise UserError("damaged or truncated") from None
    depth = 4 if picture.interpretation == "rgb16" else 2
    if image.format == "TIFF" and image.tag_v2.get(_EXTRA_SAMPLES, (_UNSPECIFIED,))[0] == _UNSPECIFIED:  # type: ignore[attr-defined]
        depth -= 1
    return array[..., :depth]
