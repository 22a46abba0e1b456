"""Bicubic enlargement of any window of the target picture, without computing the rest.

The filter is the one of `torch.nn.functional.interpolate(mode="bicubic", antialias=False, align_corners=False)`:
cubic convolution with a = -0.75, edges repeated. A window may extend past the target: the picture is then continued by
its edge, which pads sizes to the model's grid.
"""

from __future__ import annotations

import numpy as np

_A = -0.75
_COLUMNS = 256  # made by one matrix


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The whole picture (B, C, h, w) at `size` = (H, W)."""
    return bicubic_window(image, size, rows=(0, size[0]), columns=(0, size[1]))


def bicubic_window(
    image: np.ndarray, size: tuple[int, int], *, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Rows [r0, r1) and columns [c0, c1) of the picture enlarged to `size`.

    Args:
        image: (B, C, h, w), any range; the result overshoots it at edges, as bicubic does.
        size: (H, W) of the whole target, in pixels.
        rows, columns: half-open ranges in the target; they may reach past H and W.

    Returns:
        (B, C, r1 - r0, c1 - c0), in the image's dtype.
    """
    (top, bottom), down = _taps(image.shape[-2], size[0], rows, image.dtype)
    parts = []
    for first in range(columns[0], columns[1], _COLUMNS):  # the matrix of many columns would be almost all zeros
        part = (first, min(first + _COLUMNS, columns[1]))
        (left, right), across = _taps(image.shape[-1], size[1], part, image.dtype)
        parts.append(down @ image[..., top:bottom, left:right] @ across.T)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _taps(source: int, target: int, window: tuple[int, int], dtype: np.dtype) -> tuple[tuple[int, int], np.ndarray]:
    """The source range one axis of a window reads, and the (window, range) matrix that resamples it."""
    position = np.arange(*window, dtype=np.float64).clip(max=target - 1)  # past the end the edge is repeated
    position = (position + 0.5) * (source / target) - 0.5
    base = np.floor(position)
    fraction = position - base
    taps = (base[:, None].astype(np.int64) + np.arange(-1, 3)).clip(0, source - 1)
    first, last = int(taps.min()), int(taps.max()) + 1
    distance = np.abs(np.arange(-1, 3) - fraction[:, None])
    matrix = np.zeros((len(position), last - first))
    np.add.at(matrix, (np.arange(len(position))[:, None], taps - first), _cubic(distance))
    return (first, last), matrix.astype(dtype)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter a."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
