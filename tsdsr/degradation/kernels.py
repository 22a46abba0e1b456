"""Blur kernels: six kinds of Gaussian-like kernels, and the sinc kernel, which causes ringing.

Source: Real-ESRGAN, arXiv 2107.10833, sections 3.1 and 3.3. With q the squared Mahalanobis distance from the
centre, a kernel is exp(-q / 2), exp(-q^beta / 2) (generalized) or 1 / (1 + q^beta) (plateau), normalised to the sum 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import j1

from tsdsr.errors import UserError

Profile = Callable[[np.ndarray, float], np.ndarray]


def _gaussian(q: np.ndarray, _: float) -> np.ndarray:
    return np.exp(-0.5 * q)


def _generalized(q: np.ndarray, beta: float) -> np.ndarray:
    return np.exp(-0.5 * np.power(q, beta))


def _plateau(q: np.ndarray, beta: float) -> np.ndarray:
    return 1 / (1 + np.power(q, beta))


@dataclass(frozen=True)
class Kind:
    """A row of the registry: profile, whether both axes share one sigma, beta's range in the config."""

    profile: Profile
    isotropic: bool
    beta_range: str | None
    separable: bool = False


KINDS: dict[str, Kind] = {
    "iso": Kind(_gaussian, True, None, separable=True),
    "aniso": Kind(_gaussian, False, None),
    "generalized_iso": Kind(_generalized, True, "beta_generalized"),
    "generalized_aniso": Kind(_generalized, False, "beta_generalized"),
    "plateau_iso": Kind(_plateau, True, "beta_plateau"),
    "plateau_aniso": Kind(_plateau, False, "beta_plateau"),
}


@dataclass(frozen=True)
class GaussianKernel:
    """A registered kind of odd `size`; sigmas in pixels along axes turned by `rotation` radians; shape `beta`."""

    kind: str
    size: int
    sigma_x: float
    sigma_y: float
    rotation: float
    beta: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown kernel kind {self.kind!r}: give one of {', '.join(KINDS)}")
        _check_size(self.size)

    def weights(self) -> np.ndarray:
        """(size, size) float64, sum 1."""
        x, y = _grid(self.size)
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        q = ((cos * x + sin * y) / self.sigma_x) ** 2 + ((cos * y - sin * x) / self.sigma_y) ** 2
        weights = KINDS[self.kind].profile(q, self.beta)
        return weights / weights.sum()


@dataclass(frozen=True)
class SincKernel:
    """The circularly symmetric low-pass kernel of odd `size` with its cutoff at `cutoff` radians per pixel, cropped to
    a square."""

    size: int
    cutoff: float

    def __post_init__(self) -> None:
        _check_size(self.size)

    def weights(self) -> np.ndarray:
        """(size, size) float64, sum 1."""
        x, y = _grid(self.size)
        radius = np.hypot(x, y)
        centre = radius == 0
        radius[centre] = 1  # 0 / 0; its limit cutoff^2 / (4 pi) is set below
        weights = self.cutoff * j1(self.cutoff * radius) / (2 * np.pi * radius)
        weights[centre] = self.cutoff**2 / (4 * np.pi)
        return weights / weights.sum()


Kernel = GaussianKernel | SincKernel


def axis_weights(kernel: Kernel) -> np.ndarray | None:
    """The (size,) weights of one axis if the kernel is an outer product, else None.

    Of the kinds only `iso` is one: neither a rotated Gaussian nor another profile is separable.
    """
    return kernel.weights().sum(axis=0) if isinstance(kernel, GaussianKernel) and KINDS[kernel.kind].separable else None


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x (columns) and y (rows), each (size, size), 0 in the middle."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _check_size(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise UserError(f"a kernel's size must be odd and positive, found {size}")
