"""Bootstrap intervals of means, and of differences between two methods over the same images.

Photographs are resampled, since crops of one photograph are not independent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tsdsr import seeding

RESAMPLES = 10_000
LEVEL = 0.95
# Fewer photographs have differences of one sign, and an interval without 0, by chance more often than 1 - LEVEL:
FEWEST = 6  # 2 / 2^6 < 5 % < 2 / 2^5
_CHUNK = 1 << 22  # draws in memory at once
_CROP = re.compile(r"(.+)-c\d{3,}(\.\w+)?")  # names of pairs from the stage prepare-degradations


@dataclass(frozen=True)
class Interval:
    """A mean over images, and over seeds where there are several, with its percentile-bootstrap interval at 95 %.

    `low` and `high` are None for fewer than two photographs.
    """

    mean: float
    low: float | None
    high: float | None
    images: int
    photographs: int
    seeds: int = 1

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the interval, over enough photographs: a significant difference."""
        if self.low is None or self.high is None or self.photographs < FEWEST:
            return False
        return self.low > 0 or self.high < 0


def photographs(images: Sequence[str]) -> list[int]:
    """The number of each image's photograph, from 0, in the order of their first images.

    Args:
        images: names. `<photograph>-c<nnn>` is a crop of a photograph; any other is a separate photograph.
    """
    names = [match[1] if (match := _CROP.fullmatch(name)) else name for name in images]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def counted(images: int, photographs: int) -> str:
    """`6 images of 3 photographs`; the photographs only if they are fewer."""
    shown = [
        f"{number} {noun}" + "s" * (number != 1) for number, noun in ((images, "image"), (photographs, "photograph"))
    ]
    return " of ".join(shown if photographs < images else shown[:1])


def mean_over_images(scores: Mapping[str, float], seed: int = 0) -> Interval:
    """The mean of image name -> score, with its interval over the photographs, which the names determine."""
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

    Pairing by image removes the variation of difficulty between images, which is most of the spread of the two means.

    Args:
        ours, theirs: image name -> score.

    Raises:
        ValueError: they have no image in common.
    """
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        raise ValueError("the two methods have no scored image in common")
    return mean_over_images({name: ours[name] - theirs[name] for name in names}, seed)


def mean_over_seeds(runs: Mapping[int, Mapping[str, float]], seed: int = 0) -> Interval:
    """Mean over runs and the images that all of them have, with its interval over photographs and seeds together.

    Seeds and photographs are drawn independently with replacement, and all of their combinations are used. With one
    seed it is the interval over photographs alone. Drawing S of S seeds has (S - 1) / S of the variance of seeds, so an
    interval over few seeds is somewhat narrow.

    Args:
        runs: training seed -> image name -> score.
        seed: of the resampling.

    Raises:
        ValueError: the runs have no image in common.

    Source: the two-way pigeonhole bootstrap, Owen, Annals of Applied Statistics 1(2), 2007.
    """
    names = sorted(set.intersection(*(set(run) for run in runs.values()))) if runs else []
    if not names:
        raise ValueError("the runs have no scored image in common")
    values = np.array([[run[name] for name in names] for run in runs.values()], dtype=np.float64)  # [S,N]
    if len(values) == 1:
        return mean_over_images(dict(zip(names, values[0].tolist(), strict=True)), seed)
    groups = photographs(names)  # [N]
    sizes = np.bincount(groups)  # [P]
    low, high = None, None
    if sizes.size > 1:
        sums = np.stack([np.bincount(groups, weights=row) for row in values])  # [S,P]
        low, high = map(float, np.quantile(_two_way_means(sums, sizes, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(float(values.mean()), low, high, len(names), sizes.size, len(values))


def paired_over_seeds(
    ours: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]], seed: int = 0
) -> Interval:
    """Mean of ours - theirs, paired by image, with its interval over photographs and seeds together.

    Runs are paired by seed if the two have seeds in common (other seeds are left out); otherwise each of ours is
    compared with the mean of theirs over their seeds.

    Args:
        ours, theirs: training seed -> image name -> score.

    Raises:
        ValueError: no image is in every run.
    """
    if not theirs:
        raise ValueError("there is no run to compare with")
    common = sorted(ours.keys() & theirs.keys())
    if common:
        pairs = {number: (ours[number], [theirs[number]]) for number in common}
    else:
        pairs = {number: (run, list(theirs.values())) for number, run in ours.items()}
    return mean_over_seeds({number: _minus_mean(run, others) for number, (run, others) in pairs.items()}, seed)


def _minus_mean(run: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = run.keys() & set.intersection(*(set(other) for other in others))
    return {name: run[name] - sum(other[name] for other in others) / len(others) for name in names}


def _two_way_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Means of resamples of [S,P] sums over each photograph's images, whose numbers are `sizes` [P]."""
    seeds, count = sums.shape
    draw = seeding.numpy_generator(seed, "two-way bootstrap", seeds, count)
    means = []
    for start in range(0, RESAMPLES, rows := max(1, _CHUNK // count)):
        part = min(rows, RESAMPLES - start)
        drawn_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), part) / seeds  # [R,S]
        drawn = draw.multinomial(count, np.full(count, 1 / count), part)  # [R,P]
        means.append(np.einsum("rs,sp,rp->r", drawn_seeds, sums, drawn, optimize=True) / (drawn @ sizes))
    return np.concatenate(means)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    generator = seeding.numpy_generator(seed, "bootstrap", sums.size)
    rows = max(1, _CHUNK // sums.size)
    means = []
    for start in range(0, RESAMPLES, rows):
        draws = generator.integers(sums.size, size=(min(rows, RESAMPLES - start), sums.size))
        means.append(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1))
    return np.concatenate(means)
