"""The sections `teacher`, `prompts` and `precompute`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tsdsr.config.section import CheckpointConfig, Count, LearningRate, NonNegative, Probability, Section, Whole, Within


class TeacherCropsConfig(Section):
    batch_size: Count
    crop_size: Annotated[int, Within(16), Field(multiple_of=16)]
    learning_rate: LearningRate


class TeacherVAEConfig(TeacherCropsConfig):
    steps: Count
    texture_weight: NonNegative


class DecoderTermsConfig(Section):
    """Training of the decoder with a patch discriminator; weights are in units of the reconstruction's gradient
    norm."""

    learning_rate: LearningRate
    discriminator_learning_rate: LearningRate
    texture_weight: NonNegative
    pattern_weight: NonNegative
    adversarial_weight: NonNegative


class TeacherDecoderConfig(TeacherCropsConfig, DecoderTermsConfig):
    steps: Whole


class TeacherFlowConfig(Section):
    steps: Count
    batch_size: Count
    learning_rate: LearningRate
    caption_dropout: Probability


class TeacherFinetuneConfig(TeacherFlowConfig):
    enabled: bool
    rank: Count


class TeacherRestorerConfig(Section):
    enabled: bool
    rank: Count
    steps: Count
    batch_size: Count
    learning_rate: LearningRate
    sampling_steps: Count


class TeacherConfig(Section):
    preset: str
    source: str | None
    use_shift: bool
    threads: Count
    checkpoint: CheckpointConfig
    vae: TeacherVAEConfig
    decoder: TeacherDecoderConfig
    flow: TeacherFlowConfig
    finetune: TeacherFinetuneConfig
    restorer: TeacherRestorerConfig


class PromptsConfig(Section):
    default: Annotated[str, Field(min_length=1)]


class PrecomputeConfig(Section):
    dtype: Literal["float32", "bfloat16"]
    batch_size: Count
    shard_rows: Count
    flips: bool
