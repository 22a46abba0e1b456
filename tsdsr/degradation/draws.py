"""The random draws for one image, as plain values, separate from the operators that use them.

A `DegradationDraw` contains every random choice of the model except for the noise itself, so that tests and the
benchmark can give another implementation the same choices.

Source of the model: Real-ESRGAN, arXiv 2107.10833, section 3; its released training options for x4 (the ranges in
params.yaml); the constants below are those of its released data set class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tsdsr.config import BlurConfig, DegradationConfig, DegradationRound, NoiseConfig, ResizeConfig
from tsdsr.degradation.kernels import KINDS, GaussianKernel, Kernel, SincKernel

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")

# A sinc kernel's cutoff in radians per pixel: up to pi; from pi/5 only if the kernel is wide enough for the ripple.
CUTOFF_MAX = math.pi
CUTOFF_MIN_NARROW = math.pi / 3
CUTOFF_MIN_WIDE = math.pi / 5
WIDE_KERNEL = 13
JPEG_LAST_PROBABILITY = 0.5


@dataclass(frozen=True)
class ResizeDraw:
    """Resize by `factor`: of the current size in the first round, of the LQ size in the second."""

    factor: float
    mode: ResizeMode


@dataclass(frozen=True)
class NoiseDraw:
    """Gaussian: `strength` is the standard deviation in 8-bit levels. Poisson: the shot noise's multiplier."""

    kind: Literal["gaussian", "poisson"]
    strength: float
    gray: bool


@dataclass(frozen=True)
class RoundDraw:
    """One round: blur (or none), resize, noise, JPEG at a quality in [1, 100]."""

    kernel: Kernel | None
    resize: ResizeDraw
    noise: NoiseDraw
    jpeg_quality: float


@dataclass(frozen=True)
class DegradationDraw:
    """Both rounds, the final resize's mode, the final sinc filter (or none), and the order of the last steps.

    `jpeg_last`: resize and sinc come before the second round's JPEG; else after it.
    """

    first: RoundDraw
    second: RoundDraw
    final_mode: ResizeMode
    final_sinc: SincKernel | None
    jpeg_last: bool


def draw_degradation(config: DegradationConfig, rng: np.random.Generator) -> DegradationDraw:
    """Draw every choice for one image from `rng`."""
    return DegradationDraw(
        first=_draw_round(config.first, rng),
        second=_draw_round(config.second, rng),
        final_mode=_draw_mode(rng),
        final_sinc=_draw_final_sinc(config, rng),
        jpeg_last=bool(rng.random() < JPEG_LAST_PROBABILITY),
    )


def _draw_round(config: DegradationRound, rng: np.random.Generator) -> RoundDraw:
    return RoundDraw(
        kernel=_draw_kernel(config.blur, rng) if rng.random() < config.blur.probability else None,
        resize=_draw_resize(config.resize, rng),
        noise=_draw_noise(config.noise, rng),
        jpeg_quality=float(rng.uniform(*config.jpeg_quality)),
    )


def _draw_kernel(config: BlurConfig, rng: np.random.Generator) -> Kernel:
    size = int(rng.choice(config.kernel_sizes))
    if rng.random() < config.sinc_probability:
        return _draw_sinc(size, CUTOFF_MIN_NARROW if size < WIDE_KERNEL else CUTOFF_MIN_WIDE, rng)
    kinds = list(config.kinds)
    kind = kinds[_draw_index([config.kinds[name] for name in kinds], rng)]
    sigma_x = float(rng.uniform(*config.sigma))
    isotropic = KINDS[kind].isotropic
    sigma_y = sigma_x if isotropic else float(rng.uniform(*config.sigma))
    rotation = 0.0 if isotropic else float(rng.uniform(-math.pi, math.pi))
    beta_range = KINDS[kind].beta_range
    beta = 1.0 if beta_range is None else _draw_beta(getattr(config, beta_range), rng)
    return GaussianKernel(kind, size, sigma_x, sigma_y, rotation, beta)


def _draw_beta(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """Below or above 1 with equal probability, then uniform in that part."""
    below = rng.random() < 0.5
    return float(rng.uniform(bounds[0], 1) if below else rng.uniform(1, bounds[1]))


def _draw_final_sinc(config: DegradationConfig, rng: np.random.Generator) -> SincKernel | None:
    if rng.random() >= config.final_sinc_probability:
        return None
    return _draw_sinc(int(rng.choice(config.second.blur.kernel_sizes)), CUTOFF_MIN_NARROW, rng)


def _draw_sinc(size: int, cutoff_min: float, rng: np.random.Generator) -> SincKernel:
    return SincKernel(size, float(rng.uniform(cutoff_min, CUTOFF_MAX)))


def _draw_resize(config: ResizeConfig, rng: np.random.Generator) -> ResizeDraw:
    bounds = ((1.0, config.range[1]), (config.range[0], 1.0), (1.0, 1.0))  # up, down, keep
    low, high = bounds[_draw_index([config.up, config.down, config.keep], rng)]
    return ResizeDraw(float(rng.uniform(low, high)), _draw_mode(rng))


def _draw_mode(rng: np.random.Generator) -> ResizeMode:
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


def _draw_noise(config: NoiseConfig, rng: np.random.Generator) -> NoiseDraw:
    gaussian = rng.random() < config.gaussian_probability
    return NoiseDraw(
        kind="gaussian" if gaussian else "poisson",
        strength=float(rng.uniform(*(config.gaussian_sigma if gaussian else config.poisson_scale))),
        gray=bool(rng.random() < config.gray_probability),
    )


def _draw_index(weights: list[float], rng: np.random.Generator) -> int:
    """An index with probability proportional to its weight."""
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
