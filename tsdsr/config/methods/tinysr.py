"""`distill.method: tinysr_prune`, `tinysr_restore`, `tinysr_encoder`, `tinysr_decoder`: the runs of a compression.

They are the overlays `compress.runs`; the stage adds `source`, `blocks`, `width`, `separable` and `start`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from tsdsr.config.distill import DistillConfig, OptimizerConfig, PhaseConfig
from tsdsr.config.methods.tadsr import DiscriminatorConfig
from tsdsr.config.section import Count, LearningRate, Positive, Section, Whole


class GatesConfig(Section):
    group_size: Count
    keep: Count
    expansion: Literal["marginal", "best_option"]
    temperature: tuple[Positive, Positive]
    lora_rank: Count


class GatesOptimizerConfig(OptimizerConfig):
    gates_lr: LearningRate


class CriticOptimizerConfig(OptimizerConfig):
    discriminator_lr: LearningRate


class SeparableConfig(Section):
    encoder: bool
    decoder: bool


class CompressionPhaseConfig(PhaseConfig):
    """A separate type, so that a run does not inherit the phases of the student's recipe."""


class _Compression(DistillConfig):
    source: str
    phases: Mapping[str, CompressionPhaseConfig]


class TinySRPruneConfig(_Compression):
    method: Literal["tinysr_prune"]
    gates: GatesConfig
    optimizer: GatesOptimizerConfig


class TinySRRestoreConfig(_Compression):
    method: Literal["tinysr_restore"]
    blocks: Annotated[tuple[Whole, ...], Field(min_length=1)]
    critic: DiscriminatorConfig
    optimizer: CriticOptimizerConfig


class _AutoencoderConfig(_Compression):
    width: Count
    separable: SeparableConfig


class TinySREncoderConfig(_AutoencoderConfig):
    method: Literal["tinysr_encoder"]


class TinySRDecoderConfig(_AutoencoderConfig):
    method: Literal["tinysr_decoder"]
    decodes: Literal["photographs", "source"]
    optimizer: CriticOptimizerConfig
