"""The test images of the page: each with its versions side by side, and the crops in which the variants differ most."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsdsr.reporting import scores as score_files
from tsdsr.reporting import sheet
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Provenance

Box = tuple[int, int, int, int]  # left, top, right, bottom
CROP_FRACTION = 5  # a crop's side is the image's shorter side over this
CROPS = 2


@dataclass(frozen=True)
class Version:
    """One version of a test image: LQ, a restoration, or HQ, as a data URI, with its scores and crops."""

    key: str
    label: str
    uri: str
    scores: str
    crops: tuple[str, ...]
    pixelated: bool
    provenance: Provenance | None = None


@dataclass(frozen=True)
class Exhibit:
    """A test image with its versions, in the order LQ, bicubic, other methods, HQ."""

    id: str
    width: int
    height: int
    versions: tuple[Version, ...]
    boxes: tuple[Box, ...]


def exhibits(pairs: Path, restored: Path, ids: Sequence[str], scores: Sequence[MethodScores]) -> list[Exhibit]:
    """The exhibits of these test images.

    Args:
        pairs: the folder with `lq/` and `hq/`.
        restored: the folder with one folder per method; a method without this image is left out.
        scores: of the methods; their order is the order of the versions, baselines first.
    """
    ordered = sorted(scores, key=lambda run: run.method not in score_files.BASELINES)
    return [_exhibit(pairs, restored, name, ordered) for name in ids]


def _exhibit(pairs: Path, restored: Path, name: str, runs: Sequence[MethodScores]) -> Exhibit:
    hq, lq = sheet.read(pairs / "hq" / f"{name}.png"), sheet.read(pairs / "lq" / f"{name}.png")
    images = {run.method: sheet.read(path) for run in runs if (path := restored / run.method / f"{name}.png").is_file()}
    images = {method: image for method, image in images.items() if image.size == hq.size}
    students = [image for method, image in images.items() if method not in score_files.BASELINES]
    boxes = differing_boxes(students if len(students) > 1 else [*images.values(), hq])
    by_method = {run.method: run for run in runs}
    versions = [_version("lq", "LQ input", lq, "", boxes, hq.size)]
    for key, image in images.items():
        scores = sheet.scores_line(score_files.of_image(by_method[key], name))
        version = _version(key, score_files.method_label(key), image, scores, boxes, hq.size)
        versions.append(replace(version, provenance=by_method[key].provenance))
    versions.append(_version("hq", "HQ", hq, "", boxes, hq.size))
    return Exhibit(name, hq.width, hq.height, tuple(versions), tuple(boxes))


def differing_boxes(images: Sequence[Image.Image], count: int = CROPS) -> list[Box]:
    """Up to `count` square boxes (left, top, right, bottom), without overlap, in which images of one size differ most.

    The measure is the variance over the images at each pixel, summed over a box; the first box has the largest sum, the
    next the largest among those that do not touch it.
    """
    if len(images) < 2:
        return []
    side = max(8, min(images[0].size) // CROP_FRACTION)
    stack = np.stack([np.asarray(image, dtype=np.float64) for image in images])  # [N,H,W,3]
    sums = _box_sums(stack.var(axis=0).sum(axis=-1), side)
    boxes = []
    for _ in range(count):
        top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
        if sums[top, left] < 0:
            break
        boxes.append((int(left), int(top), int(left) + side, int(top) + side))
        sums[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = -1.0
    return boxes


def _box_sums(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The sum over every side x side window, by its top left corner."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    below, above = total[side:], total[:-side]
    sums: NDArray[np.float64] = (below[:, side:] - below[:, :-side]) - (above[:, side:] - above[:, :-side])
    return np.maximum(sums, 0.0)  # rounding can leave a tiny negative sum


def _version(
    key: str,
    label: str,
    image: Image.Image,
    scores: str,
    boxes: Sequence[Box],
    size: tuple[int, int],
) -> Version:
    scale = image.width / size[0]
    crops = [image.crop(_scaled(box, scale)) for box in boxes]
    return Version(key, label, data_uri(image), scores, tuple(map(data_uri, crops)), key == "lq")


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, right, bottom


def data_uri(image: Image.Image) -> str:
    """The image as a lossless data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
