"""Read any photograph file as 8-bit sRGB, or raise with one reason. docs/photographs.md lists the conversions."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from tsdsr.data.samples import to_eight_bit
from tsdsr.errors import UserError

log = logging.getLogger(__name__)

Image.init()  # registers every format once, before any thread does
# The formats that Pillow may open. Others are not photographs, and some start another program (EPS: ghostscript).
WANTED = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
FORMATS = tuple(name for name in WANTED if name in Image.OPEN)  # some builds of Pillow lack a codec
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
SAMPLE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # grey with more than 8 bits per sample


class BadPhotograph(UserError):
    """A file that is not a usable photograph, with the `reason`, without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadPhotograph], tuple[Path, str]]:  # so that workers can send it to the driver
        return BadPhotograph, (Path(str(self).removesuffix(f": {self.reason}")), self.reason)


def read_photograph(path: str | Path, max_megapixels: float) -> np.ndarray:
    """Decode a photograph, with its orientation applied, to sRGB.

    Args:
        path: any file; its content determines the format, not its suffix.
        max_megapixels: larger files are refused by their header, before decoding.

    Returns:
        uint8, (H, W, 3).

    Raises:
        BadPhotograph: the file cannot be read; with the reason.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadPhotograph(path, f"cannot be read: {error.strerror or error}") from None
    if not content:
        raise BadPhotograph(path, "empty file (0 bytes)")
    try:
        with _pillow_limits_off():
            return _decode(path, content, max_megapixels)
    except BadPhotograph:
        raise
    except UnidentifiedImageError:
        raise BadPhotograph(path, f"not an image in a supported format ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise BadPhotograph(path, "too large for this machine's memory") from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise BadPhotograph(path, f"cannot be decoded: {error or type(error).__name__}") from None


def _decode(path: Path, content: bytes, max_megapixels: float) -> np.ndarray:
    image: Image.Image
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if not content.startswith(TIFF_MAGIC):
            raise
        image = _open_tiff(path, content, max_megapixels)  # sample types that Pillow does not support
    _refuse_large(path, image.size, max_megapixels)
    if _misread_by_pillow(image):
        image = _open_tiff(path, content, max_megapixels)
    image.load()
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in SAMPLE_MODES:
        image = Image.fromarray(to_eight_bit(np.asarray(image)))
    return np.array(_to_srgb(path, _without_alpha(image), profile), dtype=np.uint8)


def _misread_by_pillow(image: Image.Image) -> bool:
    """Whether it is a TIFF with one plane per colour and 16 bits per sample, which Pillow 12 reads as 8 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
    return image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and max(bits) > 8


def _open_tiff(path: Path, content: bytes, max_megapixels: float) -> Image.Image:
    """The first page of a TIFF with samples that Pillow does not support (several floats or 32-bit integers per
    pixel)."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        _refuse_large(path, (page.imagewidth, page.imagelength), max_megapixels)
        samples = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        image = Image.fromarray(to_eight_bit(samples))
        if "Orientation" in page.tags:
            image.getexif()[0x0112] = int(page.tags["Orientation"].value)
        if "InterColorProfile" in page.tags:
            image.info["icc_profile"] = page.tags["InterColorProfile"].value
    return image


def _refuse_large(path: Path, size: tuple[int, int], max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise BadPhotograph(
            path,
            f"{size[0]}x{size[1]} px = {megapixels:.0f} megapixels; prepare.max_megapixels is {max_megapixels:g}",
        )


def _without_alpha(image: Image.Image) -> Image.Image:
    """Blend transparent pixels with white: their stored colour is arbitrary."""
    if image.mode not in ALPHA_MODES and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _to_srgb(path: Path, image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    if image.mode == "LAB":
        return _transform(image, ImageCms.createProfile("LAB"))
    if profile:
        try:
            image = _from_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: its colour profile cannot be used (%s); its colours are read as sRGB", path, error)
    return image.convert("RGB")


def _from_profile(image: Image.Image, content: bytes) -> Image.Image:
    profile = ImageCms.getOpenProfile(io.BytesIO(content))
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and "sRGB" in ImageCms.getProfileDescription(profile):
        return image  # the transform would only add rounding errors
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
        raise ValueError(f"a profile for {space}, but the pixels are {image.mode}")
    return _transform(image.convert(mode), profile)


def _transform(image: Image.Image, profile: ImageCms.core.CmsProfile | ImageCms.ImageCmsProfile) -> Image.Image:
    result = ImageCms.profileToProfile(
        image,
        profile,  # type: ignore[arg-type]
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert result is not None  # None is returned only with inPlace
    return result


_LIMITS = threading.Lock()
_DEPTH = 0
_SAVED: tuple[int | None, bool] = (None, False)


@contextmanager
def _pillow_limits_off() -> Iterator[None]:
    """Pillow's size limit, which is below the range of `max_megapixels`, and its switch for truncated files are
    process-wide variables. Both are set while any thread decodes, then restored."""
    global _DEPTH, _SAVED
    with _LIMITS:
        if _DEPTH == 0:
            _SAVED = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        _DEPTH += 1
    try:
        yield
    finally:
        with _LIMITS:
            _DEPTH -= 1
            if _DEPTH == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _SAVED
