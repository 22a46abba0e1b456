"""Typed, validated mirror of params.yaml, key for key.

Defaults are in params.yaml alone: a missing key, an unknown key and a value out of range are errors. Every class is
frozen; `Params.overlay` makes a changed, validated copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError, model_validator

from tsdsr.config import methods
from tsdsr.config.compress import RUNS, CompressConfig
from tsdsr.config.data import CaptionsConfig, DataConfig, PrepareConfig
from tsdsr.config.degradation import BlurConfig, DegradationConfig, DegradationRound, NoiseConfig, ResizeConfig
from tsdsr.config.distill import AdamWConfig, DistillConfig, PhaseConfig, ScheduleConfig
from tsdsr.config.experiment import (
    AblateConfig,
    ClusterConfig,
    DrawConfig,
    EvaluateConfig,
    ExternalConfig,
    ReportConfig,
    SweepConfig,
    TrackingConfig,
)
from tsdsr.config.methods import (
    MethodConfig,
    TinySRDecoderConfig,
    TinySREncoderConfig,
    TinySRPruneConfig,
    TinySRRestoreConfig,
    TSDSRConfig,
    TSDSRDecoderConfig,
)
from tsdsr.config.section import Section, Seed
from tsdsr.config.teacher import (
    DecoderTermsConfig,
    PrecomputeConfig,
    PromptsConfig,
    TeacherConfig,
    TeacherCropsConfig,
    TeacherDecoderConfig,
    TeacherFlowConfig,
    TeacherRestorerConfig,
    TeacherVAEConfig,
)
from tsdsr.errors import UserError

__all__ = [
    "RUNS",
    "AdamWConfig",
    "BlurConfig",
    "CaptionsConfig",
    "DecoderTermsConfig",
    "DegradationConfig",
    "DegradationRound",
    "DistillConfig",
    "DrawConfig",
    "ExternalConfig",
    "NoiseConfig",
    "Params",
    "PhaseConfig",
    "PrecomputeConfig",
    "ResizeConfig",
    "ScheduleConfig",
    "TSDSRConfig",
    "TSDSRDecoderConfig",
    "TeacherCropsConfig",
    "TeacherDecoderConfig",
    "TeacherFlowConfig",
    "TeacherRestorerConfig",
    "TeacherVAEConfig",
    "TinySRDecoderConfig",
    "TinySREncoderConfig",
    "TinySRPruneConfig",
    "TinySRRestoreConfig",
    "flatten",
    "merge",
    "read_sections",
    "without_former_recipe",
]


class Params(Section):
    seed: Seed
    data: DataConfig
    captions: CaptionsConfig
    prepare: PrepareConfig
    degradation: DegradationConfig
    teacher: TeacherConfig
    prompts: PromptsConfig
    precompute: PrecomputeConfig
    distill: MethodConfig
    compress: CompressConfig
    evaluate: EvaluateConfig
    ablate: AblateConfig
    sweep: SweepConfig
    report: ReportConfig
    tracking: TrackingConfig
    cluster: ClusterConfig

    @model_validator(mode="after")
    def _variants_are_valid(self) -> Self:
        named = {f"variants.{name}": changes for name, changes in self.ablate.variants.items()}
        for name, changes in {"start": self.ablate.start or {}, **named}.items():
            self._check_recipe(f"ablate.{name}", changes)
        return self

    @model_validator(mode="after")
    def _decoder_is_valid(self) -> Self:
        if isinstance(self.distill, methods.TSDSRDecoderConfig):
            cropped = self.distill.augment.crop_size
            key = "distill.augment.crop_size" if cropped else "data.crop_size"
            self.distill.decoder.check_side(cropped or self.data.crop_size, key)
        return self

    @model_validator(mode="after")
    def _compression_is_valid(self) -> Self:
        for name, changes in self.compress.runs.items():
            method, added = RUNS[name]
            self._check_recipe(f"compress.runs.{name}", {"method": method, **changes, **added})
        return self

    def _check_recipe(self, key: str, changes: Mapping[str, Any]) -> None:
        """Check that `distill` is valid with these changes, which are at `key`."""
        base = self.distill.model_dump(mode="json", by_alias=True)
        try:
            methods.validate(_changed_recipe(base, changes))
        except ValidationError as error:
            raise ValueError(f"{key}: " + "; ".join(_describe(item) for item in error.errors())) from None
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    @model_validator(mode="after")
    def _swept_values_are_valid(self) -> Self:
        """Check both ends of each range, or every choice, so that no trial fails on a drawn value."""
        values = self.model_dump(mode="json", by_alias=True)
        for draw in self.sweep.space:
            keys = draw.key.split(".")
            if not _has(values, draw.key):
                raise ValueError(f"sweep.space: {draw.key}: no such key in params.yaml")
            for value in draw.choice or draw.uniform or draw.loguniform or ():
                self._check_drawn(values, keys, value)
        return self

    def _check_drawn(self, values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
        """Validate one key's value. Conflicts with other keys are found in the trial, which draws those."""
        section, *inner = keys
        kind = getattr(self, section)
        if not isinstance(kind, Section):
            return
        changes: Any = value
        for key in reversed(inner):
            changes = {key: changes}
        try:
            type(kind).model_validate(merge(values[section], changes))
        except ValidationError as error:
            for item in error.errors():
                if item["loc"][: len(inner)] == tuple(inner):
                    raise ValueError(f"sweep.space: {section}.{_describe(item)}") from None

    @classmethod
    def load(cls, path: str | Path) -> Params:
        """Read and validate a params file.

        Raises:
            UserError: names each invalid key, its value and the expected one.
        """
        absent = "no such file; give --params the path of a params.yaml"
        return cls.parse(read_sections(path, absent), origin=str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], origin: str = "params") -> Params:
        """Validate a mapping; `origin` names it in messages."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{origin}: " + "; ".join(_describe(item) for item in error.errors())) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers with the keys of the file, such as `lambda`."""
        return self.model_dump(mode="json", by_alias=True)

    def overlay(self, changes: Mapping[str, Any], origin: str = "overlay") -> Params:
        """A validated copy with `changes` (nested, as in params.yaml): mappings are merged, other values replaced."""
        return Params.parse(change(self.to_dict(), changes), origin)


def change(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge an overlay into params, or into the part that they share with the overlay's method."""
    return merge(without_former_recipe(base, changes), changes)


def without_former_recipe(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The params into which an overlay is merged. For another `distill.method`, the former method's own keys and its
    ablation are removed; for an unknown phase, all phases are. The search space loses the removed keys."""
    recipe = changes.get("distill")
    recipe, distill = recipe if isinstance(recipe, Mapping) else {}, base["distill"]
    other_method = recipe.get("method", distill["method"]) != distill["method"]
    if not other_method and not _other_phases(distill, recipe):
        return dict(base)
    kept = {**base, "distill": _kept_recipe(distill, recipe)}
    if other_method:
        kept["ablate"] = {**base["ablate"], "start": None, "run": [], "variants": {}}
    kept["sweep"] = {**base["sweep"], "space": [draw for draw in base["sweep"]["space"] if _has(kept, draw["key"])]}
    return kept


def _kept_recipe(distill: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = methods.common_keys(distill, recipe.get("method", distill["method"]))
    return {**kept, "phases": {}} if _other_phases(distill, recipe) else kept


def _other_phases(distill: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    return bool((recipe.get("phases") or {}).keys() - distill["phases"].keys())


def _changed_recipe(distill: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    return merge(_kept_recipe(distill, recipe), recipe)


def _has(values: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge `changes` into a copy of `base`; `phases` with a new name replace all phases of `base`."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        if both and not (key == "phases" and value.keys() - merged[key].keys()):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys: {"tsd": {"lambda": 1}} -> {"tsd.lambda": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def read_sections(path: str | Path, absent: str) -> dict[str, Any]:
    """The mapping of a params file or an overlay.

    Raises:
        UserError: the file is missing, which `absent` says, or is not a mapping of sections.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: {absent}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def _describe(item: Any) -> str:
    """One pydantic error as `key.path: expectation (found value)`."""
    loc = [str(part) for part in item["loc"] if part != "[key]"]
    if len(loc) > 1 and loc[0] == "distill":
        del loc[1]  # the method, pydantic's discriminator of the section's classes
    key = ".".join(loc)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return f"{key}: missing; every key of the committed params.yaml is required"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (found {item['input']!r})"
