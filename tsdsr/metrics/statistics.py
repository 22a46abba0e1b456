"""How sure a mean is: bootstrap intervals, and differences between two methods over the same images.

What is resampled is the photograph: crops of one are easy or hard together, and say less than as many photographs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tsdsr import seeding

RESAMPLES = 10_000
LEVEL = 0.95
# Differences of one sign leave 0 outside; among fewer photographs chance makes that oftener than 1 - LEVEL allows.
FEWEST = 6  # 2 / 2^6 < 5 % < 2 / 2^5
_CHUNK = 1 << 22  # draws held at once
_CROP = re.compile(r"(.+)-c\d{3,}(\.\w+)?")  # the names of pairs, as the stage prepare-degradations gives them


@dataclass(frozen=True)
class Interval:
    """A mean over images with its percentile-bootstrap interval at 95 %.

    `low` and `high` are None for fewer than two photographs.
    """

    mean: float
    low: float | None
    high: float | None
    images: int
    photographs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside, over enough photographs: for a difference, whether it is told apart from chance."""
        if self.low is None or self.high is None or self.photographs < FEWEST:
            return False
        return self.low > 0 or self.high < 0


def photographs(images: Sequence[str]) -> list[int]:
    """The number of the photograph that each image shows, from 0 on, in the order of their first images.

    Args:
        images: names. `<photograph>-c<nnn>` is a crop of a photograph; any other is a photograph of its own.
    """
    names = [match[1] if (match := _CROP.fullmatch(name)) else name for name in images]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def counted(images: int, photographs: int) -> str:
    """`6 images of 3 photographs`; the photographs only where they are fewer."""
    shown = [
        f"{number} {noun}" + "s" * (number != 1) for number, noun in ((images, "image"), (photographs, "photograph"))
    ]
    return " of ".join(shown if photographs < images else shown[:1])


def mean_over_images(scores: Mapping[str, float], seed: int = 0) -> Interval:
    """Mean of image name -> score, with its interval over the photographs that the names tell."""
    return mean_interval(list(scores.values()), seed, photographs(list(scores)))


def mean_interval(values: Sequence[float], seed: int = 0, groups: Sequence[int] | None = None) -> Interval:
    """Mean and percentile-bootstrap interval.

    Args:
        values: finite, at least one.
        seed: of the resampling. Draws depend on it and on the number of groups alone: equal input, equal output.
        groups: the photograph of each value, 0 to the number of photographs - 1; what is drawn, with all its values.
            None: each value has its own.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), Sec. 13.3; for groups, Davison and Hinkley,
        Bootstrap Methods and their Application (1997), Sec. 3.8.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected finite values, at least one; found {array.size}")
    index = np.arange(array.size) if groups is None else np.asarray(groups)
    sums, sizes = np.bincount(index, weights=array), np.bincount(index)
    mean = float(array.mean())
    if sizes.size == 1:
        return Interval(mean, None, None, array.size, 1)
    low, high = np.quantile(_resampled_means(sums, sizes, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), array.size, sizes.size)


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
    return mean_over_images({name: ours[name] - theirs[name] for name in names}, seed)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    generator = seeding.numpy_generator(seed, "bootstrap", sums.size)
    rows = max(1, _CHUNK // sums.size)
    means = []
    for start in range(0, RESAMPLES, rows):
        draws = generator.integers(sums.size, size=(min(rows, RESAMPLES - start), sums.size))
        means.append(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1))
    return np.concatenate(means)
