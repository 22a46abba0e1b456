"""The periodic pattern as a loss: an image's energy at the harmonics of a period, over that of their neighbours.

A decoder makes the same texture of neighbouring latents, and a transformer of neighbouring tokens, which is a grid of
their pitch. Losses of single windows or neighbourhoods do not detect it, since it is weak in each of them; over a whole
crop it adds up.

Source: this project's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr.device import send

MIN_PATCHES = 8  # along a side: with fewer there are no neighbours between two harmonics
PERIODS = (8, 16)  # pixels of a latent, and of a token of 2 x 2 latents, in SD3's format
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
# A Hann window spreads a peak to the next bin, so the neighbours start at the second.
_RING = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]


def pattern_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): by how much the logarithm of `harmonic_excess` is above the photograph's, mean over `PERIODS`.

    Args:
        x_hat, x: (B, 3, H, W), any range, both sides at least `MIN_PATCHES` times the longest period; the gradient
            reaches both.

    Raises:
        ValueError: the images are too small.
    """
    rises = [(harmonic_excess(x_hat, period) / harmonic_excess(x, period)).log() for period in PERIODS]
    return torch.stack(rises).clamp(min=0).mean(0).to(x_hat.dtype)


def harmonic_excess(images: Tensor, period: int) -> Tensor:
    """Energy at the harmonics of 1 / period over that of their neighbours in frequency, mean over the harmonics.

    The neighbours carry no gradient: a network would raise them, which is a pattern of nearly the same period.

    Args:
        images: (B, 3, H, W), RGB, any range. Partial patches at the right and the bottom are cut off.
        period: side of a patch in pixels.

    Returns:
        (B,), float64; about 1 without a pattern.

    Raises:
        ValueError: a side holds fewer than `MIN_PATCHES` patches.
    """
    rows, columns = images.shape[-2] // period, images.shape[-1] // period
    if min(rows, columns) < MIN_PATCHES:
        raise ValueError(
            f"a side of {min(images.shape[-2:])} pixels holds fewer than {MIN_PATCHES} patches of {period}"
        )
    images = images[..., : rows * period, : columns * period].double()
    luma = torch.einsum("c,bchw->bhw", send(torch.tensor(_LUMA, dtype=images.dtype), images.device), images)
    luma = luma - luma.mean((1, 2), keepdim=True)
    height, width = luma.shape[1:]
    down, across = (torch.hann_window(side, dtype=luma.dtype, device=luma.device) for side in (height, width))
    power = torch.fft.fft2(luma * (down[:, None] * across)).abs().square()
    around = torch.stack([power.roll((-i, -j), dims=(1, 2)) for i, j in _RING]).mean(0).detach()
    excess = (power / around.clamp(min=1e-30))[:, ::rows, ::columns].flatten(1)[:, 1:]  # harmonics; not the mean
    return excess.mean(1).clamp(min=1e-30)
