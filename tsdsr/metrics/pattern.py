"""The periodic-pattern score: the excess of an image's energy at the frequencies of the transformer's patches.

One-step students tend to show grids: every patch of the transformer (its patch size times the VAE's factor, 16 pixels
in SD3) decodes to nearly the same texture. Such a pattern adds energy at the harmonics of 1 / patch; photographs have
no excess there. The score compares each harmonic with its neighbours in frequency, which cancels a photograph's falling
spectrum: about 0 dB without a pattern, 10 dB if the harmonics have ten times their neighbours' energy.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PATCHES = 8  # along a side: with fewer there are no neighbours between two harmonics
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
# A Hann window spreads a peak to the next bin, so the neighbours start at the second.
_RING = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]


def periodic_pattern(images: Tensor, period: int) -> Tensor:
    """Score of each image.

    Args:
        images: (B, 3, H, W) in [0, 1], RGB; both sides have at least `MIN_PATCHES` patches. Partial patches at the
            right and the bottom are cut off.
        period: side of a patch in pixels.

    Returns:
        (B,), in dB, float64.

    Raises:
        ValueError: an image is too small.
    """
    rows, columns = images.shape[-2] // period, images.shape[-1] // period
    if min(rows, columns) < MIN_PATCHES:
        raise ValueError(
            f"a side of {min(images.shape[-2:])} pixels holds fewer than {MIN_PATCHES} patches of {period}"
        )
    images = images[..., : rows * period, : columns * period].double()
    luma = torch.einsum("c,bchw->bhw", images.new_tensor(_LUMA), images)
    luma = luma - luma.mean((1, 2), keepdim=True)
    height, width = luma.shape[1:]
    window = torch.hann_window(height, dtype=luma.dtype)[:, None] * torch.hann_window(width, dtype=luma.dtype)
    power = torch.fft.fft2(luma * window.to(luma.device)).abs().square()
    around = torch.stack([power.roll((-i, -j), dims=(1, 2)) for i, j in _RING]).mean(0)
    excess = (power / around.clamp(min=1e-30))[:, ::rows, ::columns].flatten(1)[:, 1:]  # harmonics; not the mean
    return 10 * torch.log10(excess.mean(1).clamp(min=1e-30))
