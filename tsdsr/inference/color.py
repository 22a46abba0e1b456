"""Colour alignment: give an upscaled picture the colours of the picture it came from.

    adain     per channel, the reference's mean and standard deviation
    wavelet   the picture's fine detail over the reference's smooth part (a trous decomposition, 5 levels)

Both are pure functions of two tensors (B, C, H, W) of equal shape and any value range. `ALIGNMENTS` is what the
pipeline uses: it works on strips of rows, so each method says how many rows around a strip it looks at.

Source: Huang and Belongie, arXiv 1703.06868, Eq. (8), adain; StableSR, arXiv 2305.07015, Sec. 3.3, wavelet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-5
_WAVELET_LEVELS = 5
WAVELET_RADIUS = sum(2**level for level in range(_WAVELET_LEVELS))  # rows that reach one output row: 31


@dataclass(frozen=True)
class Moments:
    """Running sums per image and channel, in float64: (B, C, 1, 1) each, over `count` pixels."""

    count: int
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of x (B, C, H, W)."""
        wide = x.double()
        return cls(x.shape[-2] * x.shape[-1], wide.sum((-2, -1), True), wide.square().sum((-2, -1), True))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp_min(0).sqrt()


def adain(x: Tensor, reference: Tensor) -> Tensor:
    """Shift and scale each channel of x to the reference's mean and standard deviation.

    Args:
        x: (B, C, H, W), any range.
        reference: (B, C, H', W'), the same range.

    Returns:
        (B, C, H, W), in x's dtype. A constant channel of x takes the reference's mean.
    """
    return _match(x, Moments.of(x), Moments.of(reference))


def _match(x: Tensor, own: Moments, reference: Moments) -> Tensor:
    gain = reference.std / (own.std + _EPS)
    offset = reference.mean - own.mean * gain
    return x * gain.to(x.dtype) + offset.to(x.dtype)


def wavelet(x: Tensor, reference: Tensor) -> Tensor:
    """Keep x's detail and take the reference's smooth part.

    Args:
        x: (B, C, H, W), any range.
        reference: (B, C, H, W), the same range.

    Returns:
        (B, C, H, W), in x's dtype.
    """
    # detail(x) + smooth(reference) = x - smooth(x) + smooth(reference), and smoothing is linear
    return x + _smooth(reference - x)


def _smooth(x: Tensor) -> Tensor:
    """The lowest band of the a trous wavelet: five 3-tap binomial blurs with holes of 1, 2, 4, 8 and 16 pixels."""
    channels = x.shape[1]
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    column = taps.view(1, 1, 3, 1).expand(channels, 1, 3, 1)
    row = taps.view(1, 1, 1, 3).expand(channels, 1, 1, 3)
    for level in range(_WAVELET_LEVELS):
        reach = 2**level
        x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), column, dilation=(reach, 1), groups=channels)
        x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), row, dilation=(1, reach), groups=channels)
    return x


@dataclass(frozen=True)
class Alignment:
    """How the pipeline applies a method to a strip of rows.

    Attributes:
        halo: rows above and below the strip that change it.
        uses_moments: whether it needs the moments of the whole picture and of the whole reference.
        apply: (strip, reference strip, moments, reference moments) -> strip, each with its halo rows.
    """

    halo: int
    uses_moments: bool
    apply: Callable[[Tensor, Tensor, Moments, Moments], Tensor]


ALIGNMENTS: dict[str, Alignment] = {
    "wavelet": Alignment(WAVELET_RADIUS, False, lambda x, reference, own, other: wavelet(x, reference)),
    "adain": Alignment(0, True, lambda x, reference, own, other: _match(x, own, other)),
    "none": Alignment(0, False, lambda x, reference, own, other: x),
}
