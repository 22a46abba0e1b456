"""The positions of crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A square of `side` pixels with its upper left corner at row `top`, column `left`."""

    top: int
    left: int
    side: int

    def cut(self, photograph: np.ndarray) -> np.ndarray:
        """The crop, (side, side, 3), as its own contiguous array."""
        return np.ascontiguousarray(photograph[self.top : self.top + self.side, self.left : self.left + self.side])


def random_box(height: int, width: int, side: int, rng: np.random.Generator) -> Box:
    """A box at a uniformly random position inside."""
    return Box(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side)


def fixed_boxes(height: int, width: int, side: int, count: int) -> list[Box]:
    """`count` boxes spread evenly along the middle of the longer axis; they depend on the sizes alone."""

    def start(length: int, position: float) -> int:
        return min(max(round(length * position - side / 2), 0), length - side)

    positions = [(i + 0.5) / count for i in range(count)]
    if width >= height:
        return [Box(start(height, 0.5), start(width, position), side) for position in positions]
    return [Box(start(height, position), start(width, 0.5), side) for position in positions]
