"""The sections `evaluate`, `ablate`, `sweep`, `report`, `tracking` and `cluster`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tsdsr.config.section import Count, Fraction, Positive, PositiveRange, Range, Section, Seed, Whole, Within


class FanOutConfig(Section):
    workers: Whole
    above_images: Whole


class ExternalConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w.+-]+( [\w.+-]+)*$")]
    dataset: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    dir: str

    @property
    def run_name(self) -> str:
        """The name of its run and of its files of scores."""
        return f"{self.name}-{self.dataset}".replace(" ", "_")


class EvaluateConfig(Section):
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    baselines: tuple[str, ...]
    color_alignment: Literal["adain", "wavelet", "none"]
    batch_size: Count
    weights_dir: str | None
    fan_out: FanOutConfig
    references: dict[str, str]
    external: tuple[ExternalConfig, ...]

    @model_validator(mode="after")
    def _external_rows(self) -> Self:
        if "test" in self.references:
            raise ValueError("references has test, which is the data set of our own test pairs; choose another name")
        known = {"test", *self.references}
        unknown = [item.dataset for item in self.external if item.dataset not in known]
        if unknown:
            raise ValueError(f"external names {unknown}, but references has only {sorted(self.references)} (and test)")
        rows = [item.run_name for item in self.external]
        if len(set(rows)) < len(rows):
            raise ValueError("external names a method and data set twice, or two whose files of scores have one name")
        return self


VariantName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # part of file names, before `-seed<n>`


class AblateConfig(Section):
    start: dict[str, Any] | None
    run: tuple[VariantName, ...]
    seeds: tuple[Seed, ...]
    variants: dict[VariantName, dict[str, Any]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [name for name in self.run if name not in self.variants]
        if unknown:
            raise ValueError(f"run names {unknown}, but variants has only {sorted(self.variants)}")
        for name in ("run", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice: {list(getattr(self, name))}")
        return self


class DrawConfig(Section):
    """The distribution of one key of a sweep: exactly one of `choice`, `uniform` and `loguniform`."""

    key: str
    choice: tuple[Any, ...] | None = None
    uniform: Range | None = None
    loguniform: PositiveRange | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("choice", "uniform", "loguniform") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of choice, uniform and loguniform, found {given or 'none'}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice must name at least one value")
        return self


class EarlyStoppingConfig(Section):
    grace_steps: Count
    reduction: Annotated[int, Within(2)]


class ResourcesConfig(Section):
    cpus: Positive
    gpus: Annotated[float, Within(0, 1)]  # one, or a share of one


class SweepConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    search: Literal["optuna", "random", "grid"]
    trials: Count
    space: tuple[DrawConfig, ...]
    metric: str
    steps: Count
    validation_fraction: Fraction
    early_stopping: EarlyStoppingConfig
    resources: ResourcesConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        drawn = [draw.key for draw in self.space if draw.choice is None]
        if self.search == "grid" and drawn:
            raise ValueError(f"a grid takes choices only, but the space draws {drawn} from a range")
        if self.early_stopping.grace_steps >= self.steps:
            raise ValueError(
                f"early_stopping.grace_steps must be below steps {self.steps}, found {self.early_stopping.grace_steps}"
            )
        return self


class ReportConfig(Section):
    paper_version: Literal["v1", "v4"]
    sheet_images: Count
    page_images: Count


class TrackingConfig(Section):
    experiment: Annotated[str, Field(min_length=1)]


class ClusterConfig(Section):
    storage: str | None

    @field_validator("storage")
    @classmethod
    def _absolute_and_free_of_secrets(cls, storage: str | None) -> str | None:
        if storage is not None and not (storage.startswith("/") or "://" in storage):
            raise ValueError("a job runs in a copy of the working directory: give an absolute path or a URL")
        if storage is not None and re.search("://[^/]*:[^/]*@", storage):
            raise ValueError("params are logged; leave the credentials to the environment (AWS_ACCESS_KEY_ID ...)")
        return storage
