"""The base class and types of every section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Within:
    """Bounds of a number; the message for a value outside of them states the range.

    Attributes:
        low, high: inclusive bounds; None: no bound.
        above, below: exclusive bounds.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        low = f"[{self.low:g}" if self.low is not None else f"({self.above:g}" if self.above is not None else "(-inf"
        high = f"{self.high:g}]" if self.high is not None else f"{self.below:g})" if self.below is not None else "inf)"
        return f"{low}, {high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: float) -> float:
        inside = (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ValueError(f"{value!r} is outside of {self}")
        return value


def ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    """Raises ValueError if the lower bound is above the upper one."""
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]:g} is above the upper bound {bounds[1]:g}")
    return bounds


Probability = Annotated[float, Within(0, 1)]
Fraction = Annotated[float, Within(above=0, below=1)]  # a proper part of a whole
Share = Annotated[float, Within(above=0, high=1)]
LearningRate = Annotated[float, Within(above=0, high=1)]
Decay = Annotated[float, Within(0, below=1)]  # of a running average; with 1 it would never change
Time = Annotated[float, Within(above=0, high=1000)]  # linear time t, of 1000
Positive = Annotated[float, Within(above=0)]
NonNegative = Annotated[float, Within(0)]
Whole = Annotated[int, Within(0)]
Count = Annotated[int, Within(1)]
Seed = Annotated[int, Within(0, 2**32 - 1)]
Range = Annotated[tuple[float, float], AfterValidator(ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]
TimeRange = Annotated[tuple[Time, Time], AfterValidator(ordered)]


class Section(BaseModel):
    """A mapping of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class CheckpointConfig(Section):
    every: Count  # steps
    keep: Count  # of the newest
