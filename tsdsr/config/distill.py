"""The section `distill`: the keys of every method. Each method's own keys are in `tsdsr.config.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tsdsr.config.section import (
    CheckpointConfig,
    Count,
    Decay,
    LearningRate,
    NonNegative,
    Positive,
    Section,
    Share,
    Whole,
    Within,
)


class LoRAConfig(Section):
    rank: Count
    alpha: Positive
    vae_rank: Count


class LPIPSConfig(Section):
    net: Literal["alex", "vgg"]
    weights: Literal["published", "random"]
    path: str | None
    download: bool


class PhaseConfig(Section):
    share: Share
    losses: dict[str, NonNegative]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.losses.values()):
            raise ValueError("none of its losses has a weight above 0")
        return self


class AdamWConfig(Section):
    weight_decay: NonNegative
    betas: tuple[Decay, Decay]
    clip_norm: Positive


class OptimizerConfig(AdamWConfig):
    student_lr: LearningRate


class ScheduleConfig(Section):
    name: Literal["constant", "cosine_with_restarts"]
    warmup_steps: Whole
    cycles: Count


class ValidationConfig(Section):
    every: Count
    images: Count
    max_pattern_rise_db: Positive


class AugmentConfig(Section):
    crop_size: Annotated[int, Within(16), Field(multiple_of=16)] | None
    flip: bool


class DistillConfig(Section):
    """A method's subclass adds its keys, or replaces one of these by a wider type."""

    method: str
    start: str | None
    steps: Count
    batch_size: Count
    accumulation: Count
    num_workers: Whole
    threads_per_worker: Count
    device: Literal["auto", "cpu", "cuda"]
    noise: Literal["cpu", "device"]
    deterministic: bool
    readers: Whole
    degradation: Literal["online", "offline"]
    augment: AugmentConfig
    shift_positions: bool
    precision: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    low_memory: bool
    vae_slice: Count | None
    lpips: LPIPSConfig
    phases: Mapping[str, PhaseConfig]
    optimizer: OptimizerConfig
    lr_schedule: ScheduleConfig
    ema_decay: Decay
    checkpoint: CheckpointConfig
    log_every: Count
    max_skipped: Whole
    validation: ValidationConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = sum(phase.share for phase in self.phases.values())
        if abs(shares - 1) > 1e-6:
            raise ValueError(f"the shares of the phases must sum to 1, found {shares:g}")
        parts = max(1, self.num_workers) * self.accumulation
        if self.batch_size % parts:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of num_workers x accumulation = {parts}")
        return self
