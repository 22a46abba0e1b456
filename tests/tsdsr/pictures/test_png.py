import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tsdsr.pictures.png import PngWriter


def write(pixels: np.ndarray, *, channels: int, alpha: bool, **metadata: bytes) -> bytes:
    stream = io.BytesIO()
    bits = 8 * pixels.dtype.itemsize
    writer = PngWriter(stream, pixels.shape[:2], channels=channels, alpha=alpha, bits=bits, **metadata)
    for start in range(0, len(pixels), 7):
        writer.write(pixels[start : start + 7])
    writer.close()
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (3, False), (1, True), (3, True)])
def test_what_is_written_is_read_back(dtype: type, channels: int, alpha: bool) -> None:
    generator = np.random.default_rng(0)
    smooth = np.cumsum(generator.integers(0, 3, (20, 13, channels + alpha)), axis=1)
    pixels = (smooth * (np.iinfo(dtype).max // 64)).astype(dtype)
    data = write(pixels, channels=channels, alpha=alpha)
    Image.open(io.BytesIO(data)).verify()
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if channels == 1 and alpha:
        expected = pixels[..., [0, 0, 0, 1]]
    else:
        expected = pixels[..., [2, 1, 0, 3][: channels + alpha]] if channels == 3 else pixels[..., 0]
    np.testing.assert_array_equal(read, expected)


def test_it_is_about_as_small_as_pillows(photograph: np.ndarray) -> None:
    piece = photograph[:200, :200]
    reference = io.BytesIO()
    Image.fromarray(piece).save(reference, "PNG")
    assert len(write(piece, channels=3, alpha=False)) < 1.02 * len(reference.getvalue())


def test_metadata() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    data = write(np.zeros((4, 4, 3), np.uint8), channels=3, alpha=False, icc=b"profile" * 50, exif=exif.tobytes()[6:])
    image = Image.open(io.BytesIO(data))
    assert image.info["icc_profile"] == b"profile" * 50
    assert image.getexif()[0x010F] == "Maker"
