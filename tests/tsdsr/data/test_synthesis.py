from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tsdsr.config import Params
from tsdsr.data.crops import Box
from tsdsr.data.pairs import pair_id
from tsdsr.data.synthesis import TEST_BOXES, degrade_again, make_pair, make_test_pair, sharpen, train_box


@pytest.fixture(params=[False, True], ids=["plain target", "sharpened target"])
def recipe(request: pytest.FixtureRequest, small: Params) -> Params:
    return small.overlay({"degradation": {"usm_sharpen_target": request.param}})


def test_sizes_and_types(texture: np.ndarray, recipe: Params) -> None:
    lq, hq = make_pair(texture, "a", 0, 0, 0, recipe)
    assert (lq.shape, hq.shape) == ((8, 8, 3), (32, 32, 3))
    assert lq.dtype == hq.dtype == np.uint8


def test_hq_is_the_crop(texture: np.ndarray, recipe: Params) -> None:
    crop = train_box(texture.shape[:2], "a", 2, 0, recipe).cut(texture)
    _, hq = make_pair(texture, "a", 2, 0, 0, recipe)
    assert np.array_equal(hq, sharpen(crop) if recipe.degradation.usm_sharpen_target else crop)


def test_equal_labels_give_equal_pixels(texture: np.ndarray, recipe: Params) -> None:
    once, again = (make_pair(texture, "a", 1, 2, 3, recipe) for _ in range(2))
    assert all(np.array_equal(left, right) for left, right in zip(once, again))


@pytest.mark.parametrize("labels", [("b", 1, 2, 3), ("a", 0, 2, 3), ("a", 1, 0, 3), ("a", 1, 2, 0)])
def test_every_label_matters(texture: np.ndarray, small: Params, labels: tuple) -> None:
    assert not np.array_equal(make_pair(texture, "a", 1, 2, 3, small)[0], make_pair(texture, *labels, small)[0])


def test_the_crop_stays_while_its_degradation_changes(texture: np.ndarray, small: Params) -> None:
    (lq_0, hq_0), (lq_1, hq_1) = (make_pair(texture, "a", 0, epoch, 0, small) for epoch in (0, 1))
    assert np.array_equal(hq_0, hq_1)
    assert not np.array_equal(lq_0, lq_1)


@pytest.mark.parametrize("epoch", [0, 5])
def test_online_degradation_is_the_same_function(texture: np.ndarray, recipe: Params, epoch: int) -> None:
    lq, hq = make_pair(texture, "a-c001", 7, epoch, 0, recipe)
    assert np.array_equal(degrade_again(hq, pair_id("a-c001", 7), epoch, 0, recipe), lq)


def test_test_pairs_are_never_sharpened(texture: np.ndarray, recipe: Params) -> None:
    box = Box(4, 4, 48)
    lq, hq = make_test_pair(texture, "a", 0, box, 0, recipe)
    assert np.array_equal(hq, box.cut(texture))
    assert lq.shape == (12, 12, 3)


@pytest.mark.parametrize("boxes", TEST_BOXES.values(), ids=TEST_BOXES)
def test_test_boxes(small: Params, boxes: Callable) -> None:
    found = boxes((72, 96), "a", small)
    assert len(found) == 2
    assert found == boxes((72, 96), "a", small)
    assert all(box.side == 48 and box.top <= 24 and box.left <= 48 for box in found)


def test_random_test_crops_belong_to_the_seed_and_the_photograph(small: Params) -> None:
    draw = TEST_BOXES["random_crops"]
    found = {tuple(draw((700, 900), name, small.overlay({"seed": seed}))) for name in "ab" for seed in (0, 1)}
    assert len(found) == 4
