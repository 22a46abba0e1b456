"""Intervals that cover what they should, and pairs that see what means hide."""

from __future__ import annotations

import numpy as np
import pytest

from tsdsr.data.pairs import pair_id
from tsdsr.metrics.statistics import (
    counted,
    mean_interval,
    mean_over_images,
    mean_over_seeds,
    paired_difference,
    paired_over_seeds,
    photographs,
)


def test_the_interval_of_normal_values_is_near_the_formula() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_nineteen_of_twenty_intervals_hold_the_true_mean() -> None:
    random = np.random.default_rng(1)
    intervals = [mean_interval(random.normal(0, 1, 40)) for _ in range(200)]
    held = sum(interval.low < 0 < interval.high for interval in intervals)  # type: ignore[operator]
    assert 0.88 <= held / 200 <= 0.99


def test_equal_input_gives_equal_intervals_and_seeds_differ() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1).low != mean_interval(values, seed=2).low


def test_one_value_has_no_interval_and_none_or_nan_is_refused() -> None:
    assert mean_interval([4.0]).low is None
    assert not mean_interval([4.0]).excludes_zero
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            mean_interval(values)


def test_chance_seldom_tells_two_equal_methods_apart_however_few_the_images() -> None:
    """The bootstrap of few differences of one sign leaves out 0, and few differences often have one sign."""
    random = np.random.default_rng(5)
    for images, trials in ((2, 60), (3, 60), (5, 60)):
        told = [mean_interval(random.normal(0, 1, images)).excludes_zero for _ in range(trials)]
        assert sum(told) <= 0.1 * trials
    assert mean_interval([0.1, 0.2, 0.3, 0.2, 0.1, 0.3]).excludes_zero


def test_the_names_of_pairs_tell_their_photographs() -> None:
    pairs = [f"{pair_id(name, crop)}.png" for name in ("cat", "cat-c000", "pier") for crop in (0, 1234)]
    assert photographs([*pairs, "cat.png", "x-c01.png", "x-c02.png"]) == [0, 0, 1, 1, 2, 2, 3, 4, 5]
    assert (counted(6, 3), counted(6, 6)) == ("6 images of 3 photographs", "6 images")
    assert (counted(2, 1), counted(1, 1)) == ("2 images of 1 photograph", "1 image")


def test_crops_of_a_photograph_are_drawn_together() -> None:
    """Crops that are copies of each other say no more than one of them."""
    values = np.random.default_rng(6).normal(20, 3, 7)
    once = mean_interval(values)
    crops = {pair_id(str(number), crop): value for number, value in enumerate(values) for crop in range(4)}
    four = mean_over_images(crops)
    assert (four.mean, four.low, four.high) == pytest.approx((once.mean, once.low, once.high))
    assert (four.images, four.photographs) == (28, 7)
    assert mean_over_images({"cat-c000": 1.0, "cat-c001": 2.0}).low is None  # one photograph


def test_the_mean_is_over_images_however_many_a_photograph_has() -> None:
    crops = {"a-c000": 1.0, "a-c001": 1.0, "a-c002": 1.0, "b-c000": 5.0}
    interval = mean_over_images(crops)
    assert (interval.mean, interval.low, interval.high) == (2.0, 1.0, 5.0)


def test_many_crops_of_few_photographs_tell_nothing_apart() -> None:
    better = {pair_id(name, crop): 0.5 for name in ("cat", "pier", "tree") for crop in range(40)}
    worse = dict.fromkeys(better, 0.0)
    assert not paired_difference(better, worse).excludes_zero


def test_more_images_than_one_block_of_draws() -> None:
    values = np.random.default_rng(3).normal(5, 1, 3000)
    interval = mean_interval(values)
    assert interval.low == pytest.approx(values.mean() - 1.96 / 3000**0.5, abs=0.01)


def test_pairing_finds_a_small_gain_under_a_large_spread() -> None:
    random = np.random.default_rng(4)
    difficulty = random.normal(25, 5, 60)
    theirs = {f"{index}.png": float(value) for index, value in enumerate(difficulty)}
    ours = {name: value + 0.2 + float(random.normal(0, 0.1)) for name, value in theirs.items()}
    difference = paired_difference(ours, theirs)
    assert difference.excludes_zero
    assert difference.mean == pytest.approx(0.2, abs=0.05)
    assert mean_interval(list(ours.values())).low < mean_interval(list(theirs.values())).mean  # type: ignore[operator]


def test_pairing_takes_the_images_that_both_have() -> None:
    difference = paired_difference({"a": 3.0, "b": 5.0, "c": 100.0}, {"b": 4.0, "a": 2.0, "d": -100.0})
    assert (difference.mean, difference.images) == (1.0, 2)
    with pytest.raises(ValueError, match="no scored image in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def runs(values: np.ndarray, crops: int = 1) -> dict[int, dict[str, float]]:
    """[S,P] scores as seed -> image -> score, each photograph with so many crops of one score."""
    return {
        seed: {pair_id(f"{index:03d}", crop): float(value) for index, value in enumerate(row) for crop in range(crops)}
        for seed, row in enumerate(values)
    }


def test_one_seed_gives_the_interval_over_photographs() -> None:
    values = np.random.default_rng(7).normal(20, 3, (1, 60))
    assert mean_over_seeds(runs(values)) == mean_over_images(runs(values)[0])


def test_the_interval_over_seeds_and_photographs_is_near_the_formula() -> None:
    """Effects of 40 seeds and of 200 photographs add up, and so do the variances of their means."""
    random = np.random.default_rng(8)
    of_seeds, of_photographs = random.normal(0, 1, 40), random.normal(25, 3, 200)
    interval = mean_over_seeds(runs(of_seeds[:, None] + of_photographs))
    half = 1.96 * (of_seeds.var() / 40 + of_photographs.var() / 200) ** 0.5
    assert interval.mean == pytest.approx(of_seeds.mean() + of_photographs.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.05)  # type: ignore[operator]
    assert (interval.seeds, interval.photographs) == (40, 200)


def test_crops_of_a_photograph_are_drawn_together_over_seeds_too() -> None:
    values = np.random.default_rng(9).normal(20, 3, (3, 8))
    once, four = mean_over_seeds(runs(values)), mean_over_seeds(runs(values, crops=4))
    assert (four.mean, four.low, four.high) == pytest.approx((once.mean, once.low, once.high))
    assert (four.images, four.photographs) == (32, 8)


def test_a_gain_with_every_seed_and_photograph_is_told_from_one_that_seeds_undo() -> None:
    random = np.random.default_rng(10)
    theirs = random.normal(25, 5, (5, 30))
    steady = paired_over_seeds(runs(theirs + 0.3), runs(theirs))
    undone = paired_over_seeds(runs(theirs + np.array([[1.0], [-1.0], [1.2], [-0.9], [0.1]])), runs(theirs))
    assert steady.excludes_zero
    assert steady.mean == pytest.approx(0.3)
    assert not undone.excludes_zero


def test_runs_are_paired_by_seed_or_else_with_the_mean_of_the_others() -> None:
    theirs = {0: {"a": 1.0, "b": 2.0}, 1: {"a": 3.0, "b": 4.0}}
    assert paired_over_seeds({1: {"a": 4.0, "b": 5.0, "c": 9.0}, 7: {"a": 99.0}}, theirs).mean == 1.0
    assert paired_over_seeds({7: {"a": 4.0, "b": 5.0}}, theirs).mean == 2.0
    with pytest.raises(ValueError, match="no scored image in common"):
        paired_over_seeds({0: {"c": 1.0}}, theirs)
    with pytest.raises(ValueError, match="no run to compare with"):
        paired_over_seeds(theirs, {})
