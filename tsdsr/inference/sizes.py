"""The size of the result, from a factor, a side, or a number of megapixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tsdsr.errors import UserError

MIN_FACTOR, MAX_FACTOR = 1.0, 8.0
_ROUNDING = 1e-3  # relative tolerance of the bounds, since sides are rounded to whole pixels


@dataclass(frozen=True)
class TargetSize:
    """The requested size, given in at most one way; `width` and `height` count as one.

    Attributes:
        scale: enlargement of both sides, 1 to 8.
        width, height: of the result in pixels; with one of them the other keeps the proportions.
        longest_side: of the result in pixels.
        megapixels: of the result, in millions of pixels.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    longest_side: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        ways = [self.scale, self.height if self.width is None else self.width, self.longest_side, self.megapixels]
        if sum(way is not None for way in ways) != 1:
            raise UserError(
                "give the size in one way: a scale, or width and/or height, or the longest side, or megapixels"
            )
        for amount in (self.scale, self.width, self.height, self.longest_side, self.megapixels):
            if amount is not None and not 0 < amount < math.inf:
                raise UserError(f"a size must be a positive number, found {amount}")

    def of(self, width: int, height: int) -> tuple[int, int]:
        """(H, W) of the result for a picture of `width` x `height` pixels.

        Raises:
            UserError: the enlargement is outside of 1 to 8.
        """
        target = self._target(width, height)
        for factor in (target[0] / height, target[1] / width):
            if not MIN_FACTOR * (1 - _ROUNDING) <= factor <= MAX_FACTOR * (1 + _ROUNDING):
                raise UserError(
                    f"{width}x{height} to {target[1]}x{target[0]} is a factor of {factor:.3g}; it must be "
                    f"{MIN_FACTOR:g} to {MAX_FACTOR:g}"
                )
        return target

    def _target(self, width: int, height: int) -> tuple[int, int]:
        if self.width is not None and self.height is not None:
            return self.height, self.width
        if self.scale is not None:
            factor = self.scale
        elif self.width is not None:
            factor = self.width / width
        elif self.height is not None:
            factor = self.height / height
        elif self.longest_side is not None:
            factor = self.longest_side / max(width, height)
        else:
            factor = math.sqrt(float(self.megapixels or 0) * 1e6 / (width * height))
        return max(1, round(height * factor)), max(1, round(width * factor))
