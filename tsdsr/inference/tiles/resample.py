"""Bicubic enlargement of any window of the target picture, without making the whole of it.

The filter is the one of `torch.nn.functional.interpolate(mode="bicubic", antialias=False, align_corners=False)`:
cubic convolution with a = -0.75, edges repeated. A window may reach past the target: the picture is then continued by
its edge, which is how sizes are padded to the model's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

_A = -0.75
_COLUMNS = 256  # made by one matrix


def bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole picture (B, C, h, w) at `size` = (H, W)."""
    return bicubic_window(image, size, rows=(0, size[0]), columns=(0, size[1]))


def bicubic_window(image: Tensor, size: tuple[int, int], *, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Rows [r0, r1) and columns [c0, c1) of the picture enlarged to `size`.

    Args:
        image: (B, C, h, w), any range; the result overshoots it at edges, as bicubic does.
        size: (H, W) of the whole target, in pixels.
        rows, columns: half-open ranges in the target; they may reach past H and W.

    Returns:
        (B, C, r1 - r0, c1 - c0), in the image's dtype and on its device.
    """
    (top, bottom), down = _taps(image.shape[-2], size[0], rows, image)
    parts = []
    for first in range(columns[0], columns[1], _COLUMNS):  # the matrix of many columns would be almost all zeros
        part = (first, min(first + _COLUMNS, columns[1]))
        (left, right), across = _taps(image.shape[-1], size[1], part, image)
        parts.append(down @ image[..., top:bottom, left:right] @ across.T)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _taps(source: int, target: int, window: tuple[int, int], like: Tensor) -> tuple[tuple[int, int], Tensor]:
    """The source range one axis of a window reads, and the (window, range) matrix that resamples it."""
    position = torch.arange(*window, dtype=torch.float64).clamp(max=target - 1)  # past the end: the edge goes on
    position = (position + 0.5) * (source / target) - 0.5
    base = position.floor()
    fraction = position - base
    taps = base[:, None].long() + torch.arange(-1, 3)
    taps = taps.clamp(0, source - 1)
    first, last = int(taps.min()), int(taps.max()) + 1
    distance = (torch.arange(-1, 3) - fraction[:, None]).abs()
    matrix = torch.zeros(len(position), last - first, dtype=torch.float64)
    matrix.scatter_add_(1, taps - first, _cubic(distance))
    return (first, last), matrix.to(device=like.device, dtype=like.dtype)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with parameter a."""
    near = ((_A + 2) * distance - (_A + 3)) * distance.square() + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
