"""The sections `teacher`, `prompts` and `precompute`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

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

    def check_side(self, side: int, key: str) -> None:
        """Raises ValueError if the training's images are too small for its terms: side in pixels, given by `key`."""
        if self.pattern_weight and side < 128:
            raise ValueError(
                f"{key}: {side} is too small for pattern_weight: at least 128 pixels, or pattern_weight: 0"
            )
        if side < 48:
            raise ValueError(f"{key}: {side} is too small for the training of a decoder: at least 48 pixels")


class TeacherDecoderConfig(TeacherCropsConfig, DecoderTermsConfig):
    steps: Whole

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        if self.steps:
            self.check_side(self.crop_size, "crop_size")
        return self


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
