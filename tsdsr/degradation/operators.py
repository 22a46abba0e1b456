"""The operators of a round. Pictures are float32 (H, W, 3), BGR, in 8-bit levels [0, 255], never rounded in between.

BGR, since that is the order of the JPEG codec used. Borders are mirrored without repeating the edge, as in basicsr.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from tsdsr.degradation.draws import NoiseDraw, ResizeMode
from tsdsr.degradation.kernels import Kernel

_RESIZE_FLAG = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
_GRAY_BGR = np.array([0.114, 0.587, 0.2989], dtype=np.float32)  # torchvision's weights


def blur(image: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Correlate every channel with the kernel."""
    return cv2.filter2D(image, cv2.CV_32F, kernel.weights(), borderType=cv2.BORDER_REFLECT_101)


def resize_by(image: np.ndarray, factor: float, mode: ResizeMode) -> np.ndarray:
    """To floor(side * factor); bilinear and bicubic sample at (i + 0.5) / factor - 0.5, without anti-aliasing."""
    height, width = (max(1, math.floor(side * factor)) for side in image.shape[:2])
    if mode == "area":
        return _area(image, height, width)
    # cv2 rounds the size where torch floors it; the sampling grid starts at the same corner, so the rest is cut off.
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=_RESIZE_FLAG[mode])[:height, :width]


def resize_to(image: np.ndarray, height: int, width: int, mode: ResizeMode) -> np.ndarray:
    """To (height, width)."""
    if image.shape[:2] == (height, width):
        return image
    if mode == "area":
        return _area(image, height, width)
    return cv2.resize(image, (width, height), interpolation=_RESIZE_FLAG[mode])


def _area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mean over whole source pixels floor(i n / m) .. ceil((i + 1) n / m), torch's adaptive average."""
    return _pool_rows(_pool_rows(image, height).swapaxes(0, 1), width).swapaxes(0, 1)


def _pool_rows(image: np.ndarray, count: int) -> np.ndarray:
    index = np.arange(count)
    start, stop = index * len(image) // count, -(-(index + 1) * len(image) // count)
    sizes = stop - start
    total = image[start]
    for offset in range(1, sizes.max()):
        inside = sizes > offset
        total[inside] += image[start[inside] + offset]
    return total / sizes[:, None, None].astype(np.float32)


def add_noise(image: np.ndarray, draw: NoiseDraw, rng: np.random.Generator) -> np.ndarray:
    """Add the drawn kind of noise, then clip to [0, 255]."""
    noisy = image + _NOISE[draw.kind](image, draw, rng)
    return np.clip(noisy, 0, 255, out=noisy)


def _gaussian_noise(image: np.ndarray, draw: NoiseDraw, rng: np.random.Generator) -> np.ndarray:
    shape = (*image.shape[:2], 1) if draw.gray else image.shape
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(draw.strength)


def _poisson_noise(image: np.ndarray, draw: NoiseDraw, rng: np.random.Generator) -> np.ndarray:
    source = image @ _GRAY_BGR[:, None] if draw.gray else image
    levels = to_8bit(source)
    # The peak count is the number of distinct levels, rounded up to a power of two.
    peak = 2.0 ** math.ceil(math.log2(len(np.unique(levels))))
    counts = rng.poisson(levels * (peak / 255))
    return (counts * (255 / peak) - levels).astype(np.float32) * np.float32(draw.strength)


_NOISE = {"gaussian": _gaussian_noise, "poisson": _poisson_noise}


def to_8bit(image: np.ndarray) -> np.ndarray:
    """Round half to even and saturate: uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Through libjpeg at the nearest whole quality with 4:2:0 chroma. uint8 in, uint8 out."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        round(quality),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    done, data = cv2.imencode(".jpg", image, options)
    assert done
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def usm_sharpen(image: np.ndarray, weight: float = 0.5, radius: int = 51, threshold: float = 10) -> np.ndarray:
    """Unsharp masking where the residual is above `threshold` levels, blended in by the blurred mask.

    Source: Real-ESRGAN, section 3.4 and its released USMSharp.
    """
    residual = image - cv2.GaussianBlur(image, (radius, radius), 0, borderType=cv2.BORDER_REFLECT_101)
    mask = (np.abs(residual) > threshold).astype(np.float32)
    soft_mask = cv2.GaussianBlur(mask, (radius, radius), 0, borderType=cv2.BORDER_REFLECT_101)
    sharp = np.clip(image + weight * residual, 0, 255)
    return image + soft_mask * (sharp - image)
