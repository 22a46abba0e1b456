"""`distill.method: tsdsr`, target score distillation, and `tsdsr_decoder`, which trains the student's decoder too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from tsdsr.config.distill import PhaseConfig
from tsdsr.config.methods.scores import ScoreDistillationConfig
from tsdsr.config.section import NonNegative, Probability, Section, Time, TimeRange, Whole
from tsdsr.config.teacher import DecoderTermsConfig


class DASMConfig(Section):
    steps: Whole
    step_size: Time
    weight: NonNegative
    random_offset: bool


class TSDConfig(Section):
    lam: Probability = Field(alias="lambda")
    residual: Literal["velocity", "noise"]
    t_range: TimeRange
    trajectory_draws: Whole
    dasm: DASMConfig


class TeacherFeaturesConfig(Section):
    t: Time


class TSDPhaseConfig(PhaseConfig):
    dasm: bool


class _TSDConfig(ScoreDistillationConfig):
    tsd: TSDConfig
    teacher_features: TeacherFeaturesConfig
    phases: Mapping[str, TSDPhaseConfig]

    @model_validator(mode="after")
    def _check_trajectories(self) -> Self:
        if self.tsd.trajectory_draws and (self.augment.crop_size or self.shift_positions):
            raise ValueError(
                "tsd.trajectory_draws precomputes the trajectories of whole pairs at the middle positions: set it to 0 "
                "or augment.crop_size to null and shift_positions to false"
            )
        return self


class TSDSRConfig(_TSDConfig):
    method: Literal["tsdsr"]


class StudentDecoderConfig(DecoderTermsConfig):
    """The student's decoder.

    Attributes:
        noise: standard deviation of what is added to the latents that the decoder reads, in training and at inference.
        extrapolation: at the end the decoder moves on by this share of its distance from the teacher's.
    """

    noise: NonNegative
    extrapolation: NonNegative


class TSDSRDecoderConfig(_TSDConfig):
    method: Literal["tsdsr_decoder"]
    decoder: StudentDecoderConfig

    @model_validator(mode="after")
    def _check_precision(self) -> Self:
        if self.precision != "float32":
            raise ValueError(f"precision {self.precision}: tsdsr_decoder trains a whole decoder, which needs float32")
        return self
