"""The section `degradation`: Real-ESRGAN's two-round model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tsdsr.config.section import Probability, Range, Section, ordered


class BlurConfig(Section):
    kernel_sizes: tuple[Annotated[int, Field(ge=3)], ...]
    kinds: dict[
        Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"], Probability
    ]
    sigma: Range
    beta_generalized: Range
    beta_plateau: Range
    sinc_probability: Probability
    probability: Probability

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ordered(self.sigma)[0] <= 0:
            raise ValueError(f"sigma must be above 0, found {self.sigma}")
        for name in ("beta_generalized", "beta_plateau"):
            low, high = ordered(getattr(self, name))
            if not 0 < low <= 1 <= high:  # drawn below and above 1 with equal probability
                raise ValueError(f"{name} must hold 1 and be above 0, found [{low}, {high}]")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, found {self.kernel_sizes}")
        if abs(sum(self.kinds.values()) - 1) > 1e-6:
            raise ValueError(f"the probabilities of kinds must sum to 1, found {sum(self.kinds.values()):g}")
        return self


class ResizeConfig(Section):
    up: Probability
    down: Probability
    keep: Probability
    range: Range

    @model_validator(mode="after")
    def _check(self) -> Self:
        ordered(self.range)
        if abs(self.up + self.down + self.keep - 1) > 1e-6:
            raise ValueError("up, down and keep must sum to 1")
        if not 0 < self.range[0] <= 1 <= self.range[1]:
            raise ValueError(f"range must hold 1, found {self.range}")
        return self


class NoiseConfig(Section):
    gaussian_probability: Probability
    gaussian_sigma: Range
    poisson_scale: Range
    gray_probability: Probability

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("gaussian_sigma", "poisson_scale"):
            if ordered(getattr(self, name))[0] < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        return self


class DegradationRound(Section):
    blur: BlurConfig
    resize: ResizeConfig
    noise: NoiseConfig
    jpeg_quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        ordered(self.jpeg_quality)
        return self


class DegradationConfig(Section):
    usm_sharpen_target: bool
    first: DegradationRound
    second: DegradationRound
    final_sinc_probability: Probability
