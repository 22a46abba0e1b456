"""Typed, validated mirror of params.yaml, key for key.

Defaults live in params.yaml alone: a missing key is an error, as are an unknown one and a value out of range. Every
class is frozen; a changed copy comes from `Params.overlay`, which validates again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tsdsr.errors import UserError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]} is above the upper bound {bounds[1]}")
    return bounds


class Section(BaseModel):
    """A mapping of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class CropsConfig(Section):
    train: Count
    test: Count


class DataConfig(Section):
    source: str | tuple[str, ...]
    test_source: str | None
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_set: Literal["fixed_crops", "random_crops", "pairs"]
    scale: Annotated[int, Field(ge=1, le=8)]
    crop_size: Annotated[int, Field(ge=32)]
    test_crop_size: Annotated[int, Field(ge=32)]
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
    ray_above: Annotated[int, Field(ge=0)]


Range = tuple[float, float]


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
        if _ordered(self.sigma)[0] <= 0:
            raise ValueError(f"sigma must be above 0, found {self.sigma}")
        for name in ("beta_generalized", "beta_plateau"):
            low, high = _ordered(getattr(self, name))
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
        _ordered(self.range)
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
            if _ordered(getattr(self, name))[0] < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        return self


class DegradationRound(Section):
    blur: BlurConfig
    resize: ResizeConfig
    noise: NoiseConfig
    jpeg_quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ordered(self.jpeg_quality)
        return self


class DegradationConfig(Section):
    usm_sharpen_target: bool
    first: DegradationRound
    second: DegradationRound
    final_sinc_probability: Probability


class TeacherVAEConfig(Section):
    steps: Count
    batch_size: Count
    crop_size: Annotated[int, Field(ge=16, multiple_of=16)]
    learning_rate: Positive


class TeacherFlowConfig(Section):
    steps: Count
    batch_size: Count
    learning_rate: Positive
    caption_dropout: Probability


class TeacherFinetuneConfig(TeacherFlowConfig):
    enabled: bool
    rank: Count


class TeacherConfig(Section):
    preset: str
    source: str | None
    use_shift: bool
    threads: Count
    vae: TeacherVAEConfig
    flow: TeacherFlowConfig
    finetune: TeacherFinetuneConfig


class PromptsConfig(Section):
    default: Annotated[str, Field(min_length=1)]


class PrecomputeConfig(Section):
    dtype: Literal["float32", "bfloat16"]
    batch_size: Count
    shard_rows: Count
    flips: bool


class LoRAConfig(Section):
    rank: Count
    alpha: Positive
    vae_rank: Count


class GuidanceConfig(Section):
    teacher: NonNegative
    fake_score: NonNegative


class DASMConfig(Section):
    steps: Annotated[int, Field(ge=0)]
    step_size: Positive
    weight: NonNegative
    random_offset: bool


TimeRange = tuple[Annotated[float, Field(gt=0, le=1000)], Annotated[float, Field(gt=0, le=1000)]]


class TSDConfig(Section):
    lam: NonNegative = Field(alias="lambda")
    residual: Literal["velocity", "noise"]
    t_range: TimeRange
    dasm: DASMConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ordered(self.t_range)
        return self


class FakeScoreConfig(Section):
    t_range: TimeRange
    updates_per_step: Count
    caption_dropout: Probability

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ordered(self.t_range)
        return self


class LPIPSConfig(Section):
    net: Literal["alex", "vgg"]
    weights: Literal["published", "random"]
    path: str | None
    download: bool


class PhaseConfig(Section):
    share: Annotated[float, Field(gt=0, le=1)]
    dasm: bool
    losses: dict[str, NonNegative]


class OptimizerConfig(Section):
    student_lr: Positive
    fake_score_lr: Positive
    weight_decay: NonNegative
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    clip_norm: Positive


class ScheduleConfig(Section):
    name: Literal["constant", "cosine_with_restarts"]
    warmup_steps: Annotated[int, Field(ge=0)]
    cycles: Count


class CheckpointConfig(Section):
    every: Count
    keep: Count


class AugmentConfig(Section):
    crop_size: Annotated[int, Field(ge=16, multiple_of=16)] | None
    flip: bool


class DistillConfig(Section):
    steps: Count
    batch_size: Count
    accumulation: Count
    num_workers: Annotated[int, Field(ge=0)]
    threads_per_worker: Count
    device: Literal["auto", "cpu", "cuda"]
    degradation: Literal["online", "offline"]
    augment: AugmentConfig
    precision: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    low_memory: bool
    lora: LoRAConfig
    guidance_scale: GuidanceConfig
    tsd: TSDConfig
    fake_score: FakeScoreConfig
    lpips: LPIPSConfig
    phases: dict[str, PhaseConfig]
    optimizer: OptimizerConfig
    lr_schedule: ScheduleConfig
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    checkpoint: CheckpointConfig
    log_every: Count

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = sum(phase.share for phase in self.phases.values())
        if abs(shares - 1) > 1e-6:
            raise ValueError(f"the shares of the phases must sum to 1, found {shares:g}")
        parts = max(1, self.num_workers) * self.accumulation
        if self.batch_size % parts:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of num_workers x accumulation = {parts}")
        return self


class FanOutConfig(Section):
    workers: Annotated[int, Field(ge=0)]
    above_images: Annotated[int, Field(ge=0)]


class ExternalConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w.+-]+( [\w.+-]+)*$")]
    dataset: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    dir: str


class EvaluateConfig(Section):
    metrics: tuple[str, ...]
    color_alignment: Literal["adain", "wavelet", "none"]
    batch_size: Count
    weights_dir: str | None
    fan_out: FanOutConfig
    references: dict[str, str]
    external: tuple[ExternalConfig, ...]

    @model_validator(mode="after")
    def _references_known(self) -> Self:
        known = {"test", *self.references}
        unknown = [item.dataset for item in self.external if item.dataset not in known]
        if unknown:
            raise ValueError(f"external names {unknown}, but references has only {sorted(self.references)} (and test)")
        return self


VariantName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # a file name, and told apart from `-seed<n>`


class AblateConfig(Section):
    run: tuple[VariantName, ...]
    seeds: tuple[Annotated[int, Field(ge=0)], ...]
    variants: dict[VariantName, dict[str, Any]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [name for name in self.run if name not in self.variants]
        if unknown:
            raise ValueError(f"run names {unknown}, but variants has only {sorted(self.variants)}")
        return self


class DrawConfig(Section):
    """How a sweep draws one key: exactly one of `choice`, `uniform` and `loguniform`."""

    key: str
    choice: tuple[Any, ...] | None = None
    uniform: Range | None = None
    loguniform: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("choice", "uniform", "loguniform") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of choice, uniform and loguniform, found {given or 'none'}")
        for bounds in (self.uniform, self.loguniform):
            if bounds is not None:
                _ordered(bounds)
        if self.choice is not None and not self.choice:
            raise ValueError("choice must name at least one value")
        return self


class EarlyStoppingConfig(Section):
    grace_steps: Count
    reduction: Annotated[int, Field(ge=2)]


class ResourcesConfig(Section):
    cpus: Positive
    gpus: NonNegative


class SweepConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    search: Literal["optuna", "random", "grid"]
    trials: Count
    space: tuple[DrawConfig, ...]
    metric: str
    steps: Count
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
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
        if self.resources.gpus > 1:
            raise ValueError(f"a trial takes one GPU or a share of one, found resources.gpus {self.resources.gpus:g}")
        return self


class ReportConfig(Section):
    sheet_images: Count
    page_images: Count


class TrackingConfig(Section):
    experiment: Annotated[str, Field(min_length=1)]


class Params(Section):
    seed: Annotated[int, Field(ge=0)]
    data: DataConfig
    captions: CaptionsConfig
    prepare: PrepareConfig
    degradation: DegradationConfig
    teacher: TeacherConfig
    prompts: PromptsConfig
    precompute: PrecomputeConfig
    distill: DistillConfig
    evaluate: EvaluateConfig
    ablate: AblateConfig
    sweep: SweepConfig
    report: ReportConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _variants_are_valid(self) -> Self:
        base = self.distill.model_dump(mode="json", by_alias=True)
        for name, changes in self.ablate.variants.items():
            try:
                DistillConfig.model_validate(merge(base, changes))
            except ValidationError as error:
                raise ValueError(
                    f"ablate.variants.{name}: " + "; ".join(_describe(item) for item in error.errors())
                ) from None
        return self

    @model_validator(mode="after")
    def _swept_keys_exist(self) -> Self:
        values = self.model_dump(mode="json", by_alias=True)
        for draw in self.sweep.space:
            found: Any = values
            for key in draw.key.split("."):
                if not isinstance(found, Mapping) or key not in found:
                    raise ValueError(f"sweep.space: {draw.key}: no such key in params.yaml")
                found = found[key]
        return self

    @classmethod
    def load(cls, path: str | Path) -> Params:
        """Read and validate a params file.

        Raises:
            UserError: naming each key at fault, the value found and what was wanted.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; give --params the path of a params.yaml") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
        return cls.parse(values, origin=str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], origin: str = "params") -> Params:
        """Validate a mapping; `origin` names it in messages."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{origin}: " + "; ".join(_describe(item) for item in error.errors())) from None

    def to_dict(self) -> dict[str, Any]:
        """As in the file: plain containers, `lambda` spelled so."""
        return self.model_dump(mode="json", by_alias=True)

    def overlay(self, changes: Mapping[str, Any], origin: str = "overlay") -> Params:
        """A validated copy with `changes` (nested, as in params.yaml) merged in; mappings merge, all else replaces."""
        return Params.parse(merge(self.to_dict(), changes), origin)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge `changes` into a copy of `base`."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _describe(item: Any) -> str:
    """One pydantic error as `key.path: what was wanted (found value)`."""
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return f"{key}: missing; every key of the committed params.yaml is needed"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (found {item['input']!r})"
