"""Colour alignment: give an upscaled picture the colours of its input.

    adain     per channel, the reference's mean and standard deviation
    wavelet   the picture's fine detail over the reference's smooth part (a trous decomposition, 5 levels); given the
              reference's noise, also what its fine detail has above that noise: its colour, and the brightness that
              the picture has lost

The pipeline's `wavelet` is the latter: small coloured objects keep their colour, stripes that the model smoothed are
restored, sharpened detail stays, and noise does not return. Arrays are float32, (B, C, H, W). The pipeline uses
`ALIGNMENTS`: it works on strips of rows, and each method states how many rows around a strip it needs.

Source: Huang and Belongie, arXiv 1703.06868, Eq. (8), adain; StableSR, arXiv 2305.07015, Sec. 3.3, wavelet; Donoho,
IEEE Trans. Inf. Theory 41(3), 1995, the noise's deviation from a median; the treatment of the fine detail is this
project's own.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_EPS = 1e-5
_LEVELS = 5  # of blur, with holes of 1, 2, 4, 8 and 16 pixels
_ENERGY_LEVELS = 3  # blurs that average a detail's energy
_HALO = sum(2**level for level in range(_LEVELS)) + sum(2**level for level in range(_ENERGY_LEVELS))  # rows
_ENLARGED_NOISE = 0.73  # share of white noise's variance in the fine detail of its bicubic enlargement, x1.5 to x8
_UNSEEN = 5 / 255  # standard deviation of noise in the picture that may remain in the result
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MAD = 0.6745  # the median of the absolute value of a standard normal variable


@dataclass(frozen=True)
class Moments:
    """Running sums per image and channel, in float64: (B, C, 1, 1) each, over `count` pixels."""

    count: int
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """The moments of x (B, C, H, W)."""
        wide = x.astype(np.float64)
        total, squares = (values.sum((-2, -1), keepdims=True) for values in (wide, wide**2))
        return cls(x.shape[-2] * x.shape[-1], total, squares)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def std(self) -> np.ndarray:
        return np.sqrt((self.squares / self.count - self.mean**2).clip(min=0))


def match(x: np.ndarray, own: Moments, reference: Moments) -> np.ndarray:
    gain = reference.std / (own.std + _EPS)
    offset = reference.mean - own.mean * gain
    return x * gain.astype(x.dtype) + offset.astype(x.dtype)


def wavelet(x: np.ndarray, reference: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """x's detail with the reference's smooth part; with `noise`, also the reference's detail above the noise.

    Args:
        x: (B, 3, H, W), any range.
        reference: (B, 3, H, W), the same range.
        noise: (B, 4, 1, 1), `noise_variance` of the picture that was enlarged to the reference.

    Returns:
        (B, 3, H, W), in x's dtype.
    """
    # detail(x) + smooth(reference) = x - smooth(x) + smooth(reference), and smoothing is linear
    change = reference - x
    low = smooth(change, range(_LEVELS))
    if noise is None:
        return x + low
    change -= low  # from x's detail to the reference's
    hidden = _ENLARGED_NOISE * (noise - _UNSEEN**2).clip(min=0)
    colour, light = _chroma(change), _luma(change)
    colour *= _above(_energy(colour), hidden[:, :3])
    detail = _luma(reference)
    detail -= smooth(detail, range(_LEVELS))
    light *= _above(_energy(detail), hidden[:, 3:] + _energy(detail - light))  # none if x has as much or more
    return x + low + colour + light


def _energy(detail: np.ndarray) -> np.ndarray:
    return smooth(detail**2, range(_ENERGY_LEVELS))


def _above(energy: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The share of `energy` above `floor`, in [0, 1]."""
    return (1 - floor / energy.clip(min=1e-12)).clip(0, 1)


def noise_variance(image: np.ndarray) -> np.ndarray:
    """The variance of a picture's noise in R - Y, G - Y, B - Y and Y, (B, 4, 1, 1), from its finest diagonal
    differences and the next ones. Fine texture counts too.

    Args:
        image: (B, 3, h, w), h and w at least 4.
    """
    planes = np.concatenate([_chroma(image), _luma(image)], 1)
    halved = np.mean(_quarters(planes), axis=0)
    fine, coarse = _diagonal_variance(planes), 4 * _diagonal_variance(halved)
    return np.maximum(fine, coarse)  # blurred or compressed noise appears only in the second


def _quarters(planes: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four pixels of every 2 x 2 block, as pictures: top left, top right, bottom left, bottom right."""
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    return tuple(planes[..., down:height:2, right:width:2] for down in (0, 1) for right in (0, 1))


def _diagonal_variance(planes: np.ndarray) -> np.ndarray:
    a, b, c, d = _quarters(planes)
    size = np.median(np.abs((a - b - c + d) / 2), axis=(-2, -1), keepdims=True)
    return (size / _MAD) ** 2


def _luma(x: np.ndarray) -> np.ndarray:
    """Y, (B, 1, H, W)."""
    return sum(weight * x[:, index : index + 1] for index, weight in enumerate(_LUMA))  # type: ignore[return-value]


def _chroma(x: np.ndarray) -> np.ndarray:
    """The chroma of x: (R - Y, G - Y, B - Y)."""
    return x - _luma(x)


def smooth(x: np.ndarray, levels: range) -> np.ndarray:
    """Some levels of the a trous wavelet's blur: each is (1 2 1) / 4 along both axes with holes of 2^level pixels."""
    for level in levels:
        reach = 2**level
        for axis in (-2, -1):
            length = x.shape[axis]
            padded = np.pad(x, [(0, 0)] * (x.ndim + axis) + [(reach, reach)] + [(0, 0)] * (-1 - axis), mode="edge")
            before, here, after = (_part(padded, axis, start, length) for start in (0, reach, 2 * reach))
            x = before + after
            x *= 0.5
            x += here
            x *= 0.5
    return x


def _part(x: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    return x[..., start : start + length, :] if axis == -2 else x[..., start : start + length]


Align = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (strip, reference's strip), each with its halo rows -> strip
Rows = Callable[[int, int], np.ndarray]  # the rows [start, stop) of a picture


@dataclass(frozen=True)
class Alignment:
    """How the pipeline applies a method to a picture in strips of rows.

    Attributes:
        halo: rows above and below a strip that affect it.
        prepare: (small picture, rows of the result, rows of the reference, strips as ranges of rows) -> the function
            that aligns one strip. It reads all of them once.
    """

    halo: int
    prepare: Callable[[np.ndarray, Rows, Rows, list[tuple[int, int]]], Align]


def _prepare_adain(image: np.ndarray, rows: Rows, reference: Rows, strips: list[tuple[int, int]]) -> Align:
    own, other = (
        functools.reduce(operator.add, (Moments.of(read(*strip)) for strip in strips)) for read in (rows, reference)
    )
    return lambda x, _: match(x, own, other)


def _prepare_wavelet(image: np.ndarray, rows: Rows, reference: Rows, strips: list[tuple[int, int]]) -> Align:
    noise = noise_variance(image)
    return lambda x, other: wavelet(x, other, noise)


ALIGNMENTS: dict[str, Alignment] = {
    "wavelet": Alignment(_HALO, _prepare_wavelet),
    "adain": Alignment(0, _prepare_adain),
    "none": Alignment(0, lambda image, rows, reference, strips: lambda x, _: x),
}
