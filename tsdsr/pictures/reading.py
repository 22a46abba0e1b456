"""Read a picture with its depth, alpha, colour profile and EXIF; grey stays grey."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tsdsr.errors import UserError
from tsdsr.pictures.sixteen_bits import decode_16_bit, has_16_bit_colour, open_grey_with_alpha

logger = logging.getLogger(__name__)

# The operation on the stored rows and columns for EXIF orientations 2 to 8.
_ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
_PLAIN = {"1": "L", "P": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "CMYK": "RGB"}
_WITH_ALPHA = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA", "P": "RGBA", "RGB": "RGBA", "L": "LA"}
_EXIF_OF_TIFF = {  # tags of a TIFF's first directory that describe the photograph, not its storage
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Orientation),
    *(ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright),
    *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
_SHAPE = '{"shape"'  # beginning of a description in which tifffile stores the pixels' layout
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how its files begin
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values
_MOST_DPI = 65535  # that JPEG can hold
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # behind `ftyp`
_FRAMES_ARE_ONE_PICTURE = ("MPO",)  # a telephone's photograph followed by a preview


@dataclass(frozen=True)
class Picture:
    """A picture with its orientation applied.

    Attributes:
        values: (H, W, C), uint8 or uint16; C = 1 (grey) or 3 (RGB).
        alpha: (H, W) of the same type, or None.
        icc: the colour profile of `values`; None = sRGB, or grey.
        exif: without orientation and thumbnail.
        kind: Pillow's name of the input's format.
        dpi: pixels per inch, horizontally and vertically; None if the file has no resolution.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    icc: bytes | None
    exif: Image.Exif
    kind: str
    dpi: tuple[float, float] | None = None

    @property
    def bits(self) -> int:
        return 8 * self.values.dtype.itemsize

    @property
    def channels(self) -> int:
        return self.values.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.values.shape[0], self.values.shape[1]

    def planes(self) -> np.ndarray:
        """(1, 3, H, W) in [0, 1]; grey three times."""
        return _unit(np.broadcast_to(self.values, (*self.size, 3)))

    def alpha_plane(self) -> np.ndarray | None:
        """(1, 1, H, W) in [0, 1]."""
        return None if self.alpha is None else _unit(self.alpha[..., None])


def _unit(values: np.ndarray) -> np.ndarray:
    scaled = values.astype(np.float32) / np.iinfo(values.dtype).max
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))[None]


def read_size(path: Path) -> tuple[int, int]:
    """(W, H) from a file's header, with the orientation applied.

    Raises:
        UserError: there is no readable header.
    """
    with _opened(path, str(path)) as image:
        width, height = image.size
        exif = _exif(image)
        turned = exif is not None and exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        turned = turned and image.format != "TIFF"  # whose size Pillow has already rotated
    return (height, width) if turned else (width, height)


def read_picture(source: Path | BinaryIO, name: str) -> Picture:
    """Decode a picture.

    Args:
        source: a file, or a stream of its bytes.
        name: for messages.

    Raises:
        UserError: it cannot be read, is empty, animated, too large, or has floating-point values.
    """
    data = source.read_bytes() if isinstance(source, Path) else source.read()
    with _opened(io.BytesIO(data), name) as image:
        found = _exif(image)
        exif = Image.Exif() if found is None else found
        orientation = exif.pop(ExifTags.Base.Orientation, 1)
        try:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in _FRAMES_ARE_ONE_PICTURE:
                raise UserError(f"has {frames} frames or pages; save the one to enlarge as a separate picture")
            values, alpha, icc = _decode(image, data)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        except Exception as error:  # Pillow's decoders raise many types for damaged data
            raise UserError(f"{name}: damaged or truncated ({error})") from None
        if found is None:
            logger.warning("%s: its EXIF data cannot be read and is left out", name)
        upright = _ORIENTATIONS.get(orientation, lambda a: a)
        alpha = None if alpha is None else np.ascontiguousarray(upright(alpha))
        dpi = _dpi(image, turned=orientation in (5, 6, 7, 8))
        return Picture(np.ascontiguousarray(upright(values)), alpha, icc, exif, image.format or "PNG", dpi)


def _dpi(image: Image.Image, *, turned: bool) -> tuple[float, float] | None:
    """The resolution from PNG's pHYs, JPEG's density or TIFF's tags; None if it is invalid."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(1 <= value <= _MOST_DPI for value in (across, down)):
        return None
    return (down, across) if turned else (across, down)


@contextmanager
def _opened(source: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """The picture before it is decoded. What Pillow warns of is either an error later on or harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _open(source)
        except Image.DecompressionBombError as error:
            raise UserError(f"{name}: too large: {error}") from None
        except FileNotFoundError:
            raise UserError(f"{name}: no such file") from None
        except OSError as error:
            raise UserError(f"{name}: {error.strerror or _why_unknown(source)}") from None
        except Exception as error:  # errors of Pillow's header readers for oversized or damaged metadata
            raise UserError(f"{name}: damaged ({error})") from None
        with image:
            yield image


def _open(source: Path | io.BytesIO) -> Image.Image:
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        if _is_heif(source) and _register_heif():
            return Image.open(source)
        image = open_grey_with_alpha(_bytes(source)) if _bytes(source, 4) in _TIFF else None
        if image is None:
            raise
        return image


def _is_heif(source: Path | io.BytesIO) -> bool:
    head = _bytes(source, 12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS


def _register_heif() -> bool:
    """Let Pillow read HEIC, if the extra is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _why_unknown(source: Path | io.BytesIO) -> str:
    if not _bytes(source, 1):
        return "the file is empty"
    if _is_heif(source):
        return "HEIC is read with the extra `heif`: pip install 'tsdsr[heif]'"
    if _bytes(source, 4) in _TIFF:  # with floating-point colours, ...
        return "an unsupported kind of TIFF; save it as PNG, or in RGB with 8 or 16 bits per channel"
    return "not a picture in a format that can be read"


def _bytes(source: Path | io.BytesIO, count: int = -1) -> bytes:
    with io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source.open("rb") as stream:
        return stream.read(count)


def _exif(image: Image.Image) -> Image.Exif | None:
    """The EXIF data; None if it cannot be read, since damaged EXIF must not prevent enlarging."""
    try:
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)
        exif.get_ifd(ExifTags.IFD.GPSInfo)
        if image.format == "TIFF":
            for tag in set(exif) - _EXIF_OF_TIFF:
                del exif[tag]
            if str(exif.get(ExifTags.Base.ImageDescription, "")).startswith(_SHAPE):
                del exif[ExifTags.Base.ImageDescription]
        exif.tobytes()  # a value whose type does not fit its tag can be read but not written
    except Exception:  # Pillow raises many types
        return None
    return exif  # the thumbnail's directory is not read, so it is not written


def _decode(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """values (H, W, C), alpha (H, W) or None, and the profile."""
    icc = image.info.get("icc_profile")
    if has_16_bit_colour(image, data):
        return *_split(decode_16_bit(image, data)), icc
    if image.mode.startswith("I"):
        return *_grey_16(image), icc
    if image.mode == "F":
        raise UserError("has floating-point values; save it with 8 or 16 bits per channel")
    if image.mode == "CMYK" and icc:
        return *_split(np.asarray(_to_srgb(image, icc))), None
    if "transparency" in image.info or image.mode in ("PA", "RGBa", "La"):
        return *_split(np.asarray(image.convert(_WITH_ALPHA[image.mode]))), icc
    if image.mode in ("CMYK", "LAB"):
        icc = None  # the profile was for the other space
    return *_split(np.asarray(image.convert(_PLAIN.get(image.mode, image.mode)))), icc


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) or (H, W, 1 to 4) -> colours (H, W, 1 or 3), alpha (H, W) or None."""
    if array.ndim == 2:
        return array[..., None], None
    depth = array.shape[2]
    return (array[..., : depth - 1], array[..., -1]) if depth in (2, 4) else (array, None)


def _grey_16(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    array = np.asarray(image)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise UserError(f"its values span {low} to {high}; save it with 8 or 16 bits per channel")
    values = array.astype(np.uint16)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        values = 65535 - values  # Pillow supports this for 8 bits only
    clear = image.info.get("transparency")
    alpha = None if clear is None else np.where(values == clear, 0, 65535).astype(np.uint16)
    return values[..., None], alpha


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert a CMYK picture by its own profile."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        converted = None
    return image.convert("RGB") if converted is None else converted
