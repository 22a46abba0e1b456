"""The images to score: matched by name, opened once, with every fault reported before the scoring."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tsdsr.errors import UserError
from tsdsr.metrics.registry import Metric

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_BITS_PER_SAMPLE = 258  # a tag of TIFF
KEPT_BYTES = 1 << 30  # decoded images are kept up to this many bytes; beyond, they are decoded again when scored


@dataclass(frozen=True)
class Problem:
    """A fault of an image, or of an image under one metric."""

    name: str
    message: str
    metric: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass
class ImageFile:
    """An image file: the digest of its bytes, its size, and its pixels if they are kept."""

    path: Path
    digest: str
    height: int
    width: int
    pixels: np.ndarray | None = field(default=None, repr=False)

    def load(self) -> np.ndarray:
        """uint8 (H, W, 3), RGB."""
        return _decode(self.path.read_bytes()) if self.pixels is None else self.pixels


@dataclass(frozen=True)
class Item:
    """A restored image and, if there are references, its reference."""

    name: str
    restored: ImageFile
    reference: ImageFile | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.restored.height, self.restored.width


def collect(restored: str | Path, reference: str | Path | None) -> tuple[list[Item], list[Problem]]:
    """Match, open and check every image.

    Images are matched by file name, or without the suffix if suffixes differ. Names are compared in Unicode's composed
    form: macOS writes accented letters as two code points.

    Returns:
        The items that can be scored, sorted by name, and every fault found.

    Raises:
        UserError: a folder does not exist or contains no image.
    """
    files = _list(restored)
    references = None if reference is None else _list(reference)
    pairs, problems = _match(files, references)
    items, kept = [], 0
    for name, (path, other) in pairs.items():
        try:
            name.encode()
        except UnicodeEncodeError:
            problems.append(Problem(ascii(name), "its name is not UTF-8; rename it"))
            continue
        try:
            item = Item(name, _open(path), None if other is None else _open(other))
        except UserError as error:
            problems.append(Problem(name, str(error)))
            continue
        if item.reference is not None and item.shape != (item.reference.height, item.reference.width):
            sizes = f"is {_size(item.restored)}, its reference {_size(item.reference)}"
            problems.append(Problem(name, f"{sizes}; sizes must be equal"))
            continue
        items.append(item)
        kept += _bytes(item)
        if kept > KEPT_BYTES:
            _drop_pixels(item)
    return items, problems


def too_small(items: list[Item], metrics: list[Metric]) -> list[Problem]:
    """One problem per image that is smaller than a metric needs."""
    return [
        Problem(
            item.name,
            f"{item.shape[1]}x{item.shape[0]} is smaller than the {metric.min_side} px that {metric.name} needs",
            metric.name,
        )
        for item in items
        for metric in metrics
        if metric.per_image and min(item.shape) < metric.min_side
    ]


def _list(folder: str | Path) -> dict[str, Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()
    )
    if not files:
        raise UserError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))}); folders inside it are not searched")
    return {path.name: path for path in files}


def _match(
    files: dict[str, Path], references: dict[str, Path] | None
) -> tuple[dict[str, tuple[Path, Path | None]], list[Problem]]:
    if references is None:
        return {name: (path, None) for name, path in files.items()}, []
    by_stem: dict[str, list[str]] = {}
    for name in references:
        by_stem.setdefault(_stem(name), []).append(name)
    pairs: dict[str, tuple[Path, Path | None]] = {}
    problems, used = [], set()
    exact_first = sorted(files, key=lambda name: name not in references)
    for name in exact_first:
        same_stem = by_stem.get(_stem(name), [])
        match = name if name in references else same_stem[0] if len(same_stem) == 1 else None
        if match is None:
            problems.append(Problem(name, "has no reference of the same name"))
        elif match in used:
            problems.append(Problem(name, f"a second restored image for the reference {match}"))
        else:
            used.add(match)
            pairs[name] = (files[name], references[match])
    problems += [Problem(name, "a reference without a restored image") for name in references if name not in used]
    return dict(sorted(pairs.items())), problems


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", Path(name).stem)


def _open(path: Path) -> ImageFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise UserError(f"{path} is empty")
    try:
        pixels = _decode(data)
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image, or of a format that Pillow does not support") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None
    height, width = pixels.shape[:2]
    return ImageFile(path, hashlib.sha256(data).hexdigest(), height, width, pixels)


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")) or _bits(image, data) > 8:
            raise ValueError("more than 8 bits per channel; save it as 8-bit RGB")
        return np.asarray(image.convert("RGB"))


def _bits(image: Image.Image, data: bytes) -> int:
    """The stored bits per channel: Pillow reduces 16 bits of colour to 8 silently."""
    if image.format == "PNG":
        return data[24]  # of the header chunk, which comes first
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))  # type: ignore[attr-defined]
    return 8


def _size(picture: ImageFile) -> str:
    return f"{picture.width}x{picture.height}"


def _bytes(item: Item) -> int:
    pictures = 1 if item.reference is None else 2
    return 3 * pictures * item.restored.height * item.restored.width


def _drop_pixels(item: Item) -> None:
    item.restored.pixels = None
    if item.reference is not None:
        item.reference.pixels = None
