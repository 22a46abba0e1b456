import pytest

from tsdsr.errors import UserError
from tsdsr.inference.sizes import TargetSize


@pytest.mark.parametrize(
    ("wanted", "result"),
    [
        ({"scale": 4.0}, (400, 800)),
        ({"scale": 1.37}, (137, 274)),
        ({"width": 500}, (250, 500)),
        ({"height": 300}, (300, 600)),
        ({"width": 600, "height": 310}, (310, 600)),
        ({"longest_side": 1600}, (800, 1600)),
        ({"megapixels": 0.32}, (400, 800)),
    ],
)
def test_ways_to_say_it(wanted: dict[str, float], result: tuple[int, int]) -> None:
    assert TargetSize(**wanted).of(200, 100) == result  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [{}, {"scale": 2.0, "width": 7}, {"longest_side": 9, "megapixels": 1.0}])
def test_it_is_said_in_one_way(wanted: dict[str, float]) -> None:
    with pytest.raises(UserError, match="in one way"):
        TargetSize(**wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [{"scale": 0.5}, {"scale": 8.1}, {"width": 100}, {"megapixels": 100.0}])
def test_the_factor_is_bounded(wanted: dict[str, float]) -> None:
    with pytest.raises(UserError, match="factor"):
        TargetSize(**wanted).of(200, 100)  # type: ignore[arg-type]


def test_a_side_that_rounds_up_past_the_largest_factor_is_fine() -> None:
    assert TargetSize(longest_side=8 * 1001).of(1001, 333) == (2664, 8008)


@pytest.mark.parametrize(
    "amounts", [{"scale": float("nan")}, {"scale": 0}, {"megapixels": float("inf")}, {"width": -5}]
)
def test_sizes_that_are_no_sizes(amounts: dict[str, float]) -> None:
    with pytest.raises(UserError, match="positive number"):
        TargetSize(**amounts)  # type: ignore[arg-type]
