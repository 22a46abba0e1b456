"""`distill.method: tadsr` - distillation of a multi-step restoring teacher with a time-aware discriminator."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from tsdsr.config.distill import DistillConfig, LoRAConfig, OptimizerConfig
from tsdsr.config.section import Count, LearningRate, Section, TimeRange


class HFSDConfig(Section):
    residual: Literal["noise", "velocity"]
    t_range: TimeRange


class DiscriminatorConfig(Section):
    t_range: TimeRange
    outputs: Count


class AdversarialOptimizerConfig(OptimizerConfig):
    discriminator_lr: LearningRate


class TADSRConfig(DistillConfig):
    method: Literal["tadsr"]
    lora: LoRAConfig
    hfsd: HFSDConfig
    discriminator: DiscriminatorConfig
    optimizer: AdversarialOptimizerConfig

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.degradation != "offline" or self.augment.crop_size:
            raise ValueError(
                "tadsr precomputes the multi-step teacher's output for each whole pair on disk: set degradation to "
                "offline and augment.crop_size to null"
            )
        return self
