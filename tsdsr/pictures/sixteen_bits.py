"""Colour with 16 bits a channel, which Pillow would cut to 8: PNG through OpenCV, TIFF through tifffile.

tifffile needs a further package for LZW alone, so that is OpenCV's too. OpenCV turns a TIFF as its orientation tag
asks, mixes up channels that are stored one behind the other, and loses alpha beside grey: the tag is reset, and such
files are refused.
"""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image

from tsdsr.errors import UserError

_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # tags of TIFF
_GREY_WITH_ALPHA = 4  # a color type of PNG
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # of damaged files both libraries have more to say than helps


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
        UserError: for a kind of TIFF that cannot be read.
    """
    if image.format == "TIFF":
        return _decode_tiff(data)
    image.load()  # raises for damaged data, of which libpng would print more lines
    array = _decode_by_opencv(data)
    return array[..., [0, 3]] if data[25] == _GREY_WITH_ALPHA else array  # OpenCV makes that coloured


def _decode_by_opencv(data: bytes) -> np.ndarray:
    import cv2  # here, since few pictures need it and it takes a while

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise UserError("damaged or truncated")
    return array[..., [2, 1, 0, 3][: array.shape[2]]]  # OpenCV keeps blue first


def _decode_tiff(data: bytes) -> np.ndarray:
    import tifffile

    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream, mode="r+") as file:
        page = file.pages.first
        photometric = tifffile.PHOTOMETRIC(page.photometric)
        grey_with_alpha = photometric == tifffile.PHOTOMETRIC.MINISBLACK and page.samplesperpixel == 2
        if photometric != tifffile.PHOTOMETRIC.RGB and not grey_with_alpha:
            raise UserError(f"is a TIFF of 16 bits in {photometric.name}; save it in RGB")
        if page.compression != tifffile.COMPRESSION.LZW:
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
        elif page.planarconfig == tifffile.PLANARCONFIG.SEPARATE or grey_with_alpha:
            raise UserError("is a TIFF of 16 bits with LZW in separate channels, or of grey with alpha; save it as PNG")
        else:
            if _ORIENTATION in page.tags:
                page.tags[_ORIENTATION].overwrite(1)
            array = _decode_by_opencv(stream.getvalue())
        extra = page.extrasamples[:1]
    if extra == (tifffile.EXTRASAMPLE.ASSOCALPHA,):
        return _straight(array)
    return array[..., : 4 if extra == (tifffile.EXTRASAMPLE.UNASSALPHA,) else 3]


def _straight(array: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by alpha, divided by it."""
    alpha = array[..., 3:4]
    colours = np.minimum(array[..., :3].astype(np.float64) * 65535 / np.maximum(alpha, 1), 65535)
    return np.concatenate([colours.round().astype(np.uint16), alpha], axis=-1)
