"""The keys of `distill` of each method: one file per method, and one name in the union below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from tsdsr.config.distill import DistillConfig
from tsdsr.config.methods.tadsr import TADSRConfig
from tsdsr.config.methods.tinysr import (
    TinySRDecoderConfig,
    TinySREncoderConfig,
    TinySRPruneConfig,
    TinySRRestoreConfig,
)
from tsdsr.config.methods.tsdsr import TSDSRConfig, TSDSRDecoderConfig
from tsdsr.config.methods.vsd import VSDConfig

__all__ = [
    "MethodConfig",
    "TSDSRConfig",
    "TSDSRDecoderConfig",
    "TinySRDecoderConfig",
    "TinySREncoderConfig",
    "TinySRPruneConfig",
    "TinySRRestoreConfig",
    "VSDConfig",
    "common_keys",
    "validate",
]

MethodConfig = Annotated[
    TSDSRConfig
    | TSDSRDecoderConfig
    | VSDConfig
    | TADSRConfig
    | TinySRPruneConfig
    | TinySRRestoreConfig
    | TinySREncoderConfig
    | TinySRDecoderConfig,
    Field(discriminator="method"),
]
_CLASSES: dict[str, type[DistillConfig]] = {
    get_args(kind.model_fields["method"].annotation)[0]: kind for kind in get_args(get_args(MethodConfig)[0])
}


def validate(values: Mapping[str, Any]) -> DistillConfig:
    """The section, as the class of the method that it names.

    Raises:
        ValueError: pydantic.ValidationError among them.
    """
    if values["method"] not in _CLASSES:
        raise ValueError(f"method: unknown {values['method']!r}; known are {', '.join(_CLASSES)}")
    return _CLASSES[values["method"]].model_validate(values)


def common_keys(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The keys of a method's section that another method has with the same type, except for the phases."""
    before, after = _CLASSES.get(values["method"]), _CLASSES.get(method)
    if before is None or after is None or before is after:
        return dict(values)
    fields = before.model_fields.items()
    kept = {
        name
        for name, field in fields
        if name != "phases" and name in after.model_fields and after.model_fields[name].annotation == field.annotation
    }
    return {name: value for name, value in values.items() if name in kept}
