from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsdsr.inference.tiles.tiling import Blend, Span, ramp, spans


@given(st.integers(1, 500), st.integers(2, 90), st.data())
def test_spans_cover_the_length_with_equal_overlapping_tiles(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    result = spans(length, tile, overlap)
    assert result[0].start == 0
    assert result[-1].stop == length
    assert {span.stop - span.start for span in result} == {min(tile, length)}
    for one, following in pairwise(result):
        assert one.start < following.start <= one.stop
        assert one.after == following.before
        assert min(overlap, tile // 2) <= one.after <= one.stop - following.start
    assert result[0].before == result[-1].after == 0


def test_no_more_tiles_than_needed() -> None:
    assert len(spans(100, 40, 10)) == 3
    assert len(spans(101, 40, 10)) == 4
    assert spans(40, 40, 10) == [Span(0, 40, 0, 0)]


@pytest.mark.parametrize("overlap", [-1, 8])
def test_an_overlap_must_be_smaller_than_a_tile(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        spans(100, 8, overlap)


def test_ramp_is_positive_and_shared_edges_sum_to_one() -> None:
    one, two = spans(30, 20, 10)
    first, second = ramp(one), ramp(two)
    assert (first > 0).all()
    np.testing.assert_allclose(first[10:] + second[:10], 1, rtol=1e-6)
    assert (first[:10] == 1).all()


def test_blending_crops_of_a_picture_gives_it_back_in_bands() -> None:
    picture = np.random.default_rng(0).random((2, 3, 37, 53), np.float32)
    blend = Blend(53)
    bands = []
    rows = spans(37, 16, 6)
    for index, row in enumerate(rows):
        for column in spans(53, 16, 5):
            blend.add(picture[:, :, row.slice, column.slice], row, column)
        bands.append(blend.finish(rows[index + 1].start if index + 1 < len(rows) else 37))
    assert len(bands) == len(rows) > 2
    np.testing.assert_allclose(np.concatenate(bands, 2), picture, rtol=1e-5, atol=1e-6)


def test_two_flat_tiles_meet_in_a_smooth_rise() -> None:
    blend = Blend(30)
    for value, column in zip((0.0, 1.0), spans(30, 20, 10)):
        blend.add(np.full((1, 1, 4, 20), value, np.float32), Span(0, 4, 0, 0), column)
    row = blend.finish(4)[0, 0, 0]
    assert (row[:10] == 0).all()
    assert (row[20:] == 1).all()
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 0.17
