"""The section `degradation`: Real-ESRGAN's two-round model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tsdsr.config.section import NonNegative, PositiveRange, Probability, Section, Within, ordered

Levels = Annotated[float, Within(0, 255)]  # of an 8-bit picture
Quality = Annotated[int, Within(1, 100)]  # of a JPEG


class BlurConfig(Section):
    kernel_sizes: Annotated[tuple[Annotated[int, Within(3)], ...], Field(min_length=1)]
    kinds: dict[
        Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"], Probability
    ]
    sigma: PositiveRange
    beta_generalized: PositiveRange
    beta_plateau: PositiveRange
    sinc_probability: Probability
    probability: Probability

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("beta_generalized", "beta_plateau"):
            low, high = getattr(self, name)
            if not low <= 1 <= high:  # drawn below and above 1 with equal probability
                raise ValueError(f"{name} must hold 1, found [{low:g}, {high:g}]")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, found {self.kernel_sizes}")
        if abs(sum(self.kinds.values()) - 1) > 1e-6:
            raise ValueError(f"the probabilities of kinds must sum to 1, found {sum(self.kinds.values()):g}")
        return self


class ResizeConfig(Section):
    up: Probability
    down: Probability
    keep: Probability
    range: PositiveRange

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(self.up + self.down + self.keep - 1) > 1e-6:
            raise ValueError("up, down and keep must sum to 1")
        if not self.range[0] <= 1 <= self.range[1]:
            raise ValueError(f"range must hold 1, found {self.range}")
        return self


class NoiseConfig(Section):
    gaussian_probability: Probability
    gaussian_sigma: Annotated[tuple[Levels, Levels], AfterValidator(ordered)]
    poisson_scale: Annotated[tuple[NonNegative, NonNegative], AfterValidator(ordered)]
    gray_probability: Probability


class DegradationRound(Section):
    blur: BlurConfig
    resize: ResizeConfig
    noise: NoiseConfig
    jpeg_quality: Annotated[tuple[Quality, Quality], AfterValidator(ordered)]


class DegradationConfig(Section):
    usm_sharpen_target: bool
    first: DegradationRound
    second: DegradationRound
    final_sinc_probability: Probability
