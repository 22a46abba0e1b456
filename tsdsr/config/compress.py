"""The section `compress`: the settings of a compression, and its training runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tsdsr.config.methods.tinysr import SeparableConfig
from tsdsr.config.section import Count, Section, Seed, Whole

RUNS: dict[str, tuple[str, dict[str, Any]]] = {  # each run's method, and what the stage adds to its overlay
    "prune": ("tinysr_prune", {"source": ""}),
    "restore_latents": ("tinysr_restore", {"source": "", "blocks": [0]}),
    "restore_images": ("tinysr_restore", {"source": "", "blocks": [0]}),
    "encoder": ("tinysr_encoder", {"source": "", "width": 64, "separable": {"encoder": True, "decoder": False}}),
    "decoder": ("tinysr_decoder", {"source": "", "width": 64, "separable": {"encoder": True, "decoder": False}}),
}


class CompareConfig(Section):
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    deciders: dict[str, dict[str, Any]]


class CompressConfig(Section):
    decider: Literal["learnt", "magnitude", "sensitivity", "first_last", "uniform", "random", "given"]
    budget: Count
    blocks: tuple[Whole, ...] | None
    width: Count
    separable: SeparableConfig
    runs: dict[str, dict[str, Any]]
    compare: CompareConfig

    @field_validator("runs")
    @classmethod
    def _numbers(cls, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """YAML 1.1 reads `5e-05`, as programs write it, as text; keys that a class has are read as numbers anyway."""
        return {name: _read_numbers(run) for name, run in runs.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.runs.keys() != RUNS.keys():
            raise ValueError(f"runs must be {', '.join(RUNS)}; found {', '.join(self.runs)}")
        if (self.decider == "given") != (self.blocks is not None):
            raise ValueError("blocks lists the blocks to keep if decider is `given`, and is null otherwise")
        return self


def _read_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _read_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_read_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d+)?e[-+]?\d+", value):
        return float(value)
    return value
