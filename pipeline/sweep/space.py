"""The search space of a sweep, and its points by grid, at random, or from Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsdsr import files, seeding
from tsdsr.config import DrawConfig, Params

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

Point = dict[str, Any]  # dotted key of params.yaml -> value


def nested(point: Mapping[str, Any]) -> dict[str, Any]:
    """{"distill.tsd.lambda": 0.5} -> {"distill": {"tsd": {"lambda": 0.5}}}, as an overlay has it."""
    overlay: dict[str, Any] = {}
    for path, value in point.items():
        *parents, last = path.split(".")
        place = overlay
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return overlay


def grid(space: Sequence[DrawConfig]) -> list[Point]:
    """Every combination of the choices, the last key fastest."""
    choices = [draw.choice or () for draw in space]
    return [dict(zip((draw.key for draw in space), values)) for values in itertools.product(*choices)]


def random_points(space: Sequence[DrawConfig], count: int, seed: int) -> list[Point]:
    """`count` distinct random points. The first n of them are the same for every count, so that more extend a sweep."""
    points: dict[str, Point] = {}
    for index in range(100 * count):  # a small space of choices may have fewer points than `count`
        draw = seeding.numpy_generator(seed, "sweep", index)
        point = {entry.key: _draw(entry, draw) for entry in space}
        points.setdefault(files.sha256_json(point), point)
        if len(points) == count:
            break
    return list(points.values())


def distributions(space: Sequence[DrawConfig]) -> dict[str, BaseDistribution]:
    """The space in Optuna's form."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    result: dict[str, BaseDistribution] = {}
    for entry in space:
        if entry.choice is not None:
            result[entry.key] = CategoricalDistribution(entry.choice)
        else:
            low, high = entry.uniform or entry.loguniform or (0.0, 1.0)
            result[entry.key] = FloatDistribution(low, high, log=entry.loguniform is not None)
    return result


def planned(params: Params) -> list[Point] | None:
    """The points of a grid or a random sweep; None where the next point depends on the scores of those before."""
    config = params.sweep
    if config.search == "grid":
        return grid(config.space)
    return random_points(config.space, config.trials, params.seed) if config.search == "random" else None


def _draw(entry: DrawConfig, draw: np.random.Generator) -> Any:
    if entry.choice is not None:
        return entry.choice[int(draw.integers(len(entry.choice)))]
    if entry.uniform is not None:
        return float(draw.uniform(*entry.uniform))
    low, high = entry.loguniform or (1.0, 1.0)
    return float(math.exp(draw.uniform(math.log(low), math.log(high))))
