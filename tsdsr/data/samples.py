"""Convert samples of any depth to 8 bits."""

from __future__ import annotations

import numpy as np


def to_eight_bit(samples: np.ndarray) -> np.ndarray:
    """Scale samples to 8 bits: integers from their type's range, floats from [0, 1].

    Args:
        samples: (H, W) or (H, W, 1..4), uint8, uint16, a wider integer type with values of 16 bits, or float.

    Returns:
        uint8, (H, W) for grey, (H, W, 3) for colour, (H, W, 4) with alpha.

    Raises:
        ValueError: the value of white is unknown, or the shape is not that of an image.
    """
    samples = _picture_shape(samples)
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * np.uint8(255)
    low, high = samples.min(), samples.max()
    if np.issubdtype(samples.dtype, np.integer):
        if low < 0 or high > 65535:
            raise ValueError(
                f"{samples.dtype} samples from {low} to {high}; only integers of 8 or 16 bits are supported"
            )
        return ((samples.astype(np.int64) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257; rounds to nearest
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples of type {samples.dtype} are not supported")
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 1:
        raise ValueError(f"float samples from {low:g} to {high:g}; they must lie in 0..1")
    return np.rint(samples.astype(np.float64) * 255).astype(np.uint8)


def _picture_shape(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[:, :, 0]
    if samples.ndim == 3 and samples.shape[2] == 2:  # grey and alpha
        samples = samples[:, :, [0, 0, 0, 1]]
    if samples.ndim == 2 or (samples.ndim == 3 and samples.shape[2] in (3, 4)):
        return np.ascontiguousarray(samples)
    raise ValueError(f"samples of shape {samples.shape} are not a grey or colour image")
