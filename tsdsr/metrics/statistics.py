"""How sure a mean is: bootstrap intervals, and differences between two methods over the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsdsr import seeding

RESAMPLES = 10_000
LEVEL = 0.95
# Differences of one sign alone leave 0 outside; among fewer images chance makes that oftener than 1 - LEVEL allows.
FEWEST = 6  # 2 / 2^6 < 5 % < 2 / 2^5
_CHUNK = 1 << 22  # draws held at once


@dataclass(frozen=True)
class Interval:
    """A mean over images with its percentile-bootstrap interval at 95 %.

    `low` and `high` are None for fewer than two images.
    """

    mean: float
    low: float | None
    high: float | None
    images: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside, over enough images: for a difference, whether it is told apart from chance."""
        if self.low is None or self.high is None or self.images < FEWEST:
            return False
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and percentile-bootstrap interval.

    Args:
        values: one a sampled unit (an image), finite, at least one.
        seed: of the resampling. Draws depend on it and on the number of values alone: equal input, equal output.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), Sec. 13.3.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected finite values, at least one; found {array.size}")
    if array.size == 1:
        return Interval(float(array[0]), None, None, 1)
    means = _resampled_means(array, seed)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(array.mean()), float(low), float(high), array.size)


def paired_difference(ours: dict[str, float], theirs: dict[str, float], seed: int = 0) -> Interval:
    """Mean of ours - theirs over the images that both have, with its interval.

    Pairing by image removes what makes one image easier than another, which is most of the spread of the two means.

    Args:
        ours, theirs: image name -> score.

    Raises:
        ValueError: when they have no image in common.
    """
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        raise ValueError("the two methods have no scored image in common")
    return mean_interval([ours[name] - theirs[name] for name in names], seed)


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    generator = seeding.numpy_generator(seed, "bootstrap", values.size)
    rows = max(1, _CHUNK // values.size)
    means = []
    for start in range(0, RESAMPLES, rows):
        draws = generator.integers(values.size, size=(min(rows, RESAMPLES - start), values.size))
        means.append(values[draws].mean(axis=1))
    return np.concatenate(means)
