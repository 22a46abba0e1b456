"""Texture: how strong fine detail is in each neighbourhood, whatever its exact place.

Squared and absolute errors ask for the mean of all pictures that fit, which is blurred. This term compares the local
energy of fine differences instead, on a logarithmic scale, at three sizes: a blurred picture is too weak in all of
them, a noisy one too strong in the finest. It needs no network and no weights.

Legend: B batch, H W pixels.

Source: this project's own; the idea of matching local statistics of band-pass responses is that of Portilla and
Simoncelli, IJCV 2000.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 3  # each half the size of the one before
WINDOW = 8  # side of a neighbourhood, in pixels of its level
FLOOR = 1e-4  # energy that is taken for nothing: differences of about one grey level of 255


def texture_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): mean absolute difference of the logarithms of local detail energies.

    Args:
        x_hat, x: (B, 3, H, W) in [-1, 1], sides of at least 64 pixels; the gradient reaches both.
    """
    total = torch.zeros(len(x), dtype=x_hat.dtype, device=x_hat.device)
    for level in range(LEVELS):
        if level:
            x_hat, x = functional.avg_pool2d(x_hat, 2), functional.avg_pool2d(x, 2)
        for wanted, found in zip(_energies(x), _energies(x_hat), strict=True):
            total = total + (found.log() - wanted.log()).abs().flatten(1).mean(1) / (3 * LEVELS)
    return total


def _energies(x: Tensor) -> list[Tensor]:
    """Local mean squares of the differences across, down and of second order, each (B, 3, h, w)."""
    across, down = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    second = (across[..., 1:-1, 1:] - across[..., 1:-1, :-1]) + (down[..., 1:, 1:-1] - down[..., :-1, 1:-1])
    return [functional.avg_pool2d(part.pow(2), WINDOW, stride=WINDOW // 2) + FLOOR for part in (across, down, second)]
