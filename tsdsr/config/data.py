"""The sections `data`, `captions` and `prepare`: the photographs, their crops and captions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tsdsr.config.section import Count, Fraction, Positive, Probability, Section, Whole, Within


class CropsConfig(Section):
    train: Count
    test: Count


class DataConfig(Section):
    source: str | tuple[str, ...]
    test_source: str | None
    test_fraction: Fraction
    test_set: Literal["fixed_crops", "random_crops", "pairs"]
    scale: Annotated[int, Within(1, 8)]
    crop_size: Annotated[int, Within(32)]
    test_crop_size: Annotated[int, Within(32)]
    crops_per_photograph: CropsConfig

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for name in ("crop_size", "test_crop_size"):
            # 16 = the largest VAE factor (8) times the transformer's patch (2)
            if getattr(self, name) % 16 or getattr(self, name) % self.scale:
                raise ValueError(
                    f"{name} must be a multiple of 16 and of scale {self.scale}, found {getattr(self, name)}"
                )
        return self

    @model_validator(mode="after")
    def _pairs_named(self) -> Self:
        if self.test_set == "pairs" and not self.test_source:
            raise ValueError("test_set is `pairs`, but test_source is null: give the folder that holds hq/ and lq/")
        return self


class CaptionsConfig(Section):
    source: Literal["sidecar", "constant", "model"]
    constant: Annotated[str, Field(min_length=1)]
    model: str | None
    prompt: str | None
    max_tokens: Count
    batch_size: Count
    edits: str

    @model_validator(mode="after")
    def _model_named(self) -> Self:
        if self.source == "model" and not self.model:
            raise ValueError("source is `model`, but captions.model names none: give a Hugging Face id or a directory")
        return self


class PrepareConfig(Section):
    num_workers: Count
    max_bad_fraction: Probability
    max_megapixels: Positive
    ray_above: Whole
