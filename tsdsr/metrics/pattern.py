"""The periodic-pattern score: the excess of an image's energy at the frequencies of the transformer's patches.

One-step students tend to show grids: every patch of the transformer (its patch size times the VAE's factor, 16 pixels
in SD3) decodes to nearly the same texture. Such a pattern adds energy at the harmonics of 1 / patch; photographs have
no excess there. The score compares each harmonic with its neighbours in frequency, which cancels a photograph's falling
spectrum: about 0 dB without a pattern, 10 dB if the harmonics have ten times their neighbours' energy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr.losses.pattern import harmonic_excess


def periodic_pattern(images: Tensor, period: int) -> Tensor:
    """Score of each image.

    Args:
        images: (B, 3, H, W) in [0, 1], RGB; both sides have at least `losses.pattern.MIN_PATCHES` patches. Partial
            patches at the right and the bottom are cut off.
        period: side of a patch in pixels.

    Returns:
        (B,), in dB, float64.

    Raises:
        ValueError: an image is too small.
    """
    return 10 * torch.log10(harmonic_excess(images, period))
