"""The two-round degradation of Real-ESRGAN: draw the choices, then apply them to a picture.

Source: arXiv 2107.10833, section 3 and figure 2; the order of steps is that of its released training code.
"""

from __future__ import annotations

import cv2
import numpy as np

from tsdsr.config import DegradationConfig
from tsdsr.degradation.draws import DegradationDraw, draw_degradation
from tsdsr.degradation.filters import blur
from tsdsr.degradation.jpeg import jpeg
from tsdsr.degradation.levels import to_8bit
from tsdsr.degradation.noise import add_noise
from tsdsr.degradation.resize import resize_by, resize_to
from tsdsr.degradation.usm import usm_sharpen
from tsdsr.errors import UserError


def degrade(
    hq: np.ndarray, *, scale: int, config: DegradationConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make the low-quality half of a training pair.

    Args:
        hq: (H, W, 3) uint8 RGB; H and W multiples of `scale`.
        scale: HQ side / LQ side.
        config: the `degradation` section of params.yaml.
        rng: the only source of randomness: equal state and image give equal bytes.

    Returns:
        lq (H / scale, W / scale, 3) and target (H, W, 3), uint8 RGB. The target is `hq`, or its USM-sharpened version
        with `config.usm_sharpen_target`; the degradation starts from the target.

    Raises:
        UserError: `hq` has another type or shape.
    """
    return apply_degradation(
        hq, draw_degradation(config, rng), scale=scale, usm_sharpen_target=config.usm_sharpen_target, rng=rng
    )


def apply_degradation(
    hq: np.ndarray, draw: DegradationDraw, *, scale: int, usm_sharpen_target: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`degrade` with given choices; `rng` is used for the noise alone."""
    _check(hq, scale)
    image = cv2.cvtColor(np.ascontiguousarray(hq), cv2.COLOR_RGB2BGR).astype(np.float32)
    target = hq
    if usm_sharpen_target:
        image = usm_sharpen(image)
        target = cv2.cvtColor(to_8bit(image), cv2.COLOR_BGR2RGB)
    height, width = hq.shape[0] // scale, hq.shape[1] // scale
    image = _first_round(image, draw, rng)
    image = _second_round(image, draw, height, width, rng)
    lq = _finish(image, draw, height, width)
    return cv2.cvtColor(lq, cv2.COLOR_BGR2RGB), target


def _first_round(image: np.ndarray, draw: DegradationDraw, rng: np.random.Generator) -> np.ndarray:
    step = draw.first
    if step.kernel is not None:
        image = blur(image, step.kernel)
    image = resize_by(image, step.resize.factor, step.resize.mode)
    image = add_noise(image, step.noise, rng)
    return jpeg(to_8bit(image), step.jpeg_quality).astype(np.float32)


def _second_round(
    image: np.ndarray, draw: DegradationDraw, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """One round up to its noise; the second round's JPEG is among the last steps, which have two orders."""
    step = draw.second
    if step.kernel is not None:
        image = blur(image, step.kernel)
    factor = step.resize.factor
    image = resize_to(image, max(1, int(height * factor)), max(1, int(width * factor)), step.resize.mode)
    return add_noise(image, step.noise, rng)


def _finish(image: np.ndarray, draw: DegradationDraw, height: int, width: int) -> np.ndarray:
    """[resize, sinc] then JPEG, or JPEG then [resize, sinc]: uint8."""
    if not draw.jpeg_last:
        image = jpeg(to_8bit(image), draw.second.jpeg_quality).astype(np.float32)
    image = resize_to(image, height, width, draw.final_mode)
    if draw.final_sinc is not None:
        image = blur(image, draw.final_sinc)
    levels = to_8bit(image)
    return jpeg(levels, draw.second.jpeg_quality) if draw.jpeg_last else levels


def _check(hq: np.ndarray, scale: int) -> None:
    if hq.dtype != np.uint8 or hq.ndim != 3 or hq.shape[2] != 3:
        raise UserError(f"degrade takes a uint8 image (H, W, 3), found {hq.dtype} {hq.shape}")
    if 0 in hq.shape or hq.shape[0] % scale or hq.shape[1] % scale:
        raise UserError(f"the image's sides must be multiples of scale {scale}, found {hq.shape[1]}x{hq.shape[0]}")
