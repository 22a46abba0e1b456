"""Colour alignment: give an upscaled picture the colours of the picture it came from.

    adain     per channel, the reference's mean and standard deviation
    wavelet   the picture's fine detail over the reference's smooth part (a trous decomposition, 5 levels); given the
              reference's noise, also what its fine detail has above that noise: its colour, and the brightness that
              the picture has lost

The pipeline's `wavelet` is the latter: a small red thing stays red, stripes that the model smoothed away come back,
what it sharpened stays sharp, and noise stays away. Both are pure functions of two tensors (B, C, H, W) of equal shape.
`ALIGNMENTS` is what the pipeline uses: it works on strips of rows, so each method says how many rows around a strip it
looks at.

Source: Huang and Belongie, arXiv 1703.06868, Eq. (8), adain; StableSR, arXiv 2305.07015, Sec. 3.3, wavelet; Donoho,
IEEE Trans. Inf. Theory 41(3), 1995, the noise's deviation from a median; what becomes of the fine detail is this
project's own.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-5
_LEVELS = 5  # of blur, with holes of 1, 2, 4, 8 and 16 pixels
_ENERGY_LEVELS = 3  # that average a detail's energy
_HALO = sum(2**level for level in range(_LEVELS)) + sum(2**level for level in range(_ENERGY_LEVELS))  # rows
_ENLARGED_NOISE = 0.73  # of white noise's variance is left in the fine detail of its bicubic enlargement, x1.5 to x8
_UNSEEN = 5 / 255  # deviation of noise, in the picture, that may stay in the result
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MAD = 0.6745  # the median of a normal deviate's size


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


def wavelet(x: Tensor, reference: Tensor, noise: Tensor | None = None) -> Tensor:
    """Keep x's detail and take the reference's smooth part; with `noise`, also what its detail has above the noise.

    Args:
        x: (B, 3, H, W), any range.
        reference: (B, 3, H, W), the same range.
        noise: (B, 4, 1, 1), what `noise_variance` says of the picture that the reference is an enlargement of.

    Returns:
        (B, 3, H, W), in x's dtype.
    """
    # detail(x) + smooth(reference) = x - smooth(x) + smooth(reference), and smoothing is linear
    change = reference - x
    low = smooth(change, range(_LEVELS))
    if noise is None:
        return x + low
    change.sub_(low)  # from x's detail to the reference's
    hidden = _ENLARGED_NOISE * (noise - _UNSEEN**2).clamp_min(0)
    colour, light = _chroma(change), _luma(change)
    colour.mul_(_above(_energy(colour), hidden[:, :3]))
    detail = _luma(reference)
    detail.sub_(smooth(detail, range(_LEVELS)))
    light.mul_(_above(_energy(detail), hidden[:, 3:] + _energy(detail - light)))  # none where x has as much or more
    return colour.add_(light).add_(low).add_(x)


def _energy(detail: Tensor) -> Tensor:
    return smooth(detail.square(), range(_ENERGY_LEVELS))


def _above(energy: Tensor, floor: Tensor) -> Tensor:
    """The share of `energy` that stands above `floor`, in [0, 1]."""
    return (1 - floor / energy.clamp_min(1e-12)).clamp_(0, 1)


def noise_variance(image: Tensor) -> Tensor:
    """The variance of a picture's noise in R - Y, G - Y, B - Y and Y, (B, 4, 1, 1), from its finest diagonal
    differences and the next ones. Fine texture counts too.

    Args:
        image: (B, 3, h, w), h and w at least 4.
    """
    planes = torch.cat([_chroma(image), _luma(image)], 1)
    fine, coarse = _diagonal_variance(planes), 4 * _diagonal_variance(F.avg_pool2d(planes, 2))
    return torch.maximum(fine, coarse)  # noise that was blurred or compressed shows in the second alone


def _diagonal_variance(planes: Tensor) -> Tensor:
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    a, b = planes[..., 0:height:2, 0:width:2], planes[..., 0:height:2, 1:width:2]
    c, d = planes[..., 1:height:2, 0:width:2], planes[..., 1:height:2, 1:width:2]
    size = ((a - b - c + d) / 2).abs().flatten(2).median(dim=2).values
    return (size / _MAD).square()[..., None, None]


def _luma(x: Tensor) -> Tensor:
    """Y, (B, 1, H, W)."""
    return (x * torch.tensor(_LUMA, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _chroma(x: Tensor) -> Tensor:
    """x without its brightness: (R - Y, G - Y, B - Y)."""
    return x - _luma(x)


def smooth(x: Tensor, levels: range) -> Tensor:
    """Some levels of the a trous wavelet's blur: each is (1 2 1) / 4 along both axes with holes of 2^level pixels."""
    for level in levels:
        reach = 2**level
        for axis, sides in ((-2, (0, 0, reach, reach)), (-1, (reach, reach, 0, 0))):
            length, padded = x.shape[axis], F.pad(x, sides, mode="replicate")
            x = padded.narrow(axis, reach, length) * 0.5
            for start in (0, 2 * reach):
                x.add_(padded.narrow(axis, start, length), alpha=0.25)
    return x


Align = Callable[[Tensor, Tensor], Tensor]  # (strip, reference's strip), each with its halo rows -> strip
Rows = Callable[[int, int], Tensor]  # the rows [start, stop) of a picture


@dataclass(frozen=True)
class Alignment:
    """How the pipeline applies a method to a picture that comes in strips of rows.

    Attributes:
        halo: rows above and below a strip that change it.
        prepare: (small picture, rows of the result, rows of the reference, strips as ranges of rows) -> what aligns one
            strip. It looks at the whole of them once.
    """

    halo: int
    prepare: Callable[[Tensor, Rows, Rows, list[tuple[int, int]]], Align]


def _prepare_adain(image: Tensor, rows: Rows, reference: Rows, strips: list[tuple[int, int]]) -> Align:
    own, other = (
        functools.reduce(operator.add, (Moments.of(read(*strip)) for strip in strips)) for read in (rows, reference)
    )
    return lambda x, _: _match(x, own, other)


def _prepare_wavelet(image: Tensor, rows: Rows, reference: Rows, strips: list[tuple[int, int]]) -> Align:
    noise = noise_variance(image)
    return lambda x, other: wavelet(x, other, noise)


ALIGNMENTS: dict[str, Alignment] = {
    "wavelet": Alignment(_HALO, _prepare_wavelet),
    "adain": Alignment(0, _prepare_adain),
    "none": Alignment(0, lambda image, rows, reference, strips: lambda x, _: x),
}
