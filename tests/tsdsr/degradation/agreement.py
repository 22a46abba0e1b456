"""How far our operators are from basicsr's on the same drawn parameters, and how far they may be.

Differences are in 8-bit levels. Each operator is given the same input on both sides, so errors do not add up. Used by
the tests and by benchmarks/degradation.py.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from tsdsr.degradation.draws import DegradationDraw, RoundDraw
from tsdsr.degradation.filters import blur
from tsdsr.degradation.jpeg import jpeg
from tsdsr.degradation.levels import to_8bit
from tsdsr.degradation.resize import resize_by, resize_to
from tsdsr.degradation.usm import usm_sharpen

from . import basicsr_oracle as oracle


class Tolerance(NamedTuple):
    """Bounds of the mean and the largest absolute difference, in levels, and the reason for them."""

    mean: float
    largest: float
    reason: str


TOLERANCES = {
    "blur": Tolerance(2e-4, 2e-3, "float32 sums in another order; a kernel's rim below 1e-6 of its weight is cut off"),
    "area": Tolerance(1e-4, 1e-3, "float32 sums in another order"),
    "bilinear": Tolerance(5e-4, 0.02, "OpenCV and torch round sampling positions to float32 differently"),
    "bicubic": Tolerance(5e-4, 0.02, "OpenCV and torch round sampling positions to float32 differently"),
    "jpeg": Tolerance(
        3.0,
        128.0,
        "libjpeg rounds the quality, its tables, the input and the output to whole numbers, smooths upsampled chroma"
        " and repeats the edge; DiffJPEG keeps floats, repeats chroma pixels and pads with black",
    ),
    "usm": Tolerance(
        0.01, 1.0, "the wide Gaussian is fitted to 1e-3; a residual at the threshold may fall on its other side"
    ),
}


def differences(hq: np.ndarray, draw: DegradationDraw, *, scale: int) -> dict[str, np.ndarray]:
    """Absolute differences of every operator that `draw` uses, and of USM sharpening, on `hq` (H, W, 3) uint8 RGB."""
    found: dict[str, list[np.ndarray]] = {}
    bgr = cv2.cvtColor(hq, cv2.COLOR_RGB2BGR).astype(np.float32)
    _add(found, "usm", usm_sharpen(bgr), oracle.usm_sharpen(_tensor(bgr)))
    for step, by_factor in ((draw.first, True), (draw.second, False)):
        _compare_round(found, bgr, step, None if by_factor else [side // scale for side in hq.shape[:2]])
    if draw.final_sinc is not None:
        _add(found, "blur", blur(bgr, draw.final_sinc), oracle.blur(_tensor(bgr), draw.final_sinc))
    return {name: np.concatenate([part.ravel() for part in parts]) for name, parts in found.items()}


def exceeded(found: dict[str, np.ndarray]) -> list[str]:
    """The operators out of tolerance, with their figures."""
    return [
        f"{name}: mean {values.mean():.3g}, largest {values.max():.3g}; allowed {TOLERANCES[name][:2]}"
        for name, values in found.items()
        if values.mean() > TOLERANCES[name].mean or values.max() > TOLERANCES[name].largest
    ]


def _compare_round(
    found: dict[str, list[np.ndarray]], image: np.ndarray, step: RoundDraw, lq_size: list[int] | None
) -> None:
    reference = _tensor(image)
    if step.kernel is not None:
        _add(found, "blur", blur(image, step.kernel), oracle.blur(reference, step.kernel))
    factor, mode = step.resize.factor, step.resize.mode
    if lq_size is None:
        resized, wanted = resize_by(image, factor, mode), F.interpolate(reference, scale_factor=factor, mode=mode)
    else:
        size = (int(lq_size[0] * factor), int(lq_size[1] * factor))
        resized, wanted = resize_to(image, *size, mode), F.interpolate(reference, size=size, mode=mode)
    _add(found, mode, resized, wanted)
    _add(found, "jpeg", jpeg(to_8bit(image), step.jpeg_quality), _as_rgb(oracle.jpeg, image, step.jpeg_quality))


def _as_rgb(operator, image: np.ndarray, *arguments: object) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """For operators that tell the channels apart: basicsr's take RGB, ours BGR."""
    return operator(_tensor(image).flip(1), *arguments).flip(1)


def _add(found: dict[str, list[np.ndarray]], name: str, ours: np.ndarray, theirs: torch.Tensor) -> None:
    found.setdefault(name, []).append(np.abs(ours.astype(np.float32) - oracle.to_levels(theirs)))


_tensor = oracle.to_tensor
