from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tsdsr.data.crops import Box, fixed_boxes, random_box

sides = st.integers(32, 200)


@given(height=sides, width=sides, seed=st.integers(0, 2**32))
def test_random_boxes_lie_inside(height: int, width: int, seed: int) -> None:
    box = random_box(height, width, 32, np.random.default_rng(seed))
    assert 0 <= box.top <= height - 32
    assert 0 <= box.left <= width - 32


@given(height=sides, width=sides, count=st.integers(1, 5))
def test_fixed_boxes_lie_inside_and_in_order(height: int, width: int, count: int) -> None:
    boxes = fixed_boxes(height, width, 32, count)
    assert len(boxes) == count
    assert all(0 <= box.top <= height - 32 and 0 <= box.left <= width - 32 for box in boxes)
    assert boxes == sorted(boxes, key=lambda box: (box.top, box.left))


def test_one_fixed_box_is_the_middle() -> None:
    assert fixed_boxes(60, 100, 20, 1) == [Box(top=20, left=40, side=20)]


def test_fixed_boxes_do_not_overlap_where_there_is_room() -> None:
    left, right = fixed_boxes(60, 100, 50, 2)
    assert (left.left, right.left) == (0, 50)


def test_every_place_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    assert {random_box(34, 32, 32, rng).top for _ in range(100)} == {0, 1, 2}


def test_cut(texture: np.ndarray) -> None:
    crop = Box(top=3, left=5, side=32).cut(texture)
    assert crop.flags.c_contiguous
    assert np.array_equal(crop, texture[3:35, 5:37])
