"""Colour with 16 bits a channel, which Pillow would cut to 8: libvips decodes it.

libvips is asked for these pictures alone. It reads no BMP, and Pillow's readers are kept for the rest, which they give
back whole, with the tags that EXIF is written from.
"""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image

from tsdsr.errors import UserError

_BITS_PER_SAMPLE, _EXTRA_SAMPLES = 258, 338  # tags of TIFF
_UNSPECIFIED = 0  # of an extra sample that is no alpha
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # of damaged files it has more to say than helps
logging.getLogger("pyvips").setLevel(logging.CRITICAL)


def open_grey_with_alpha(data: bytes) -> Image.Image | None:
    """The header of a TIFF with 16 bits of grey and alpha, which Pillow opens only when told of 8; None for others."""
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
    """Whether Pillow would cut 16 bits of colour to 8.

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
    """The pixels as they are stored, before any orientation: (H, W, 2 to 4), uint16; alpha is straight.

    Raises:
        UserError: for damaged data, or a kind of TIFF that is not read here.
    """
    import pyvips  # here, since few pictures need it and it takes a while

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
