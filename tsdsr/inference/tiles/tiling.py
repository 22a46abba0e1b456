"""Overlapping tiles and the blending of their results: plain arithmetic, in the caller's unit.

spans(length, tile, overlap)   the starts of tiles along one axis
ramp(...)                      a tile's weights along one axis: 1 inside, falling to 0 over each shared edge
Blend                          the weighted mean of tiles, finished row band by row band
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """One tile along one axis: [start, stop), sharing `before` units with its predecessor and `after` with its
    successor."""

    start: int
    stop: int
    before: int
    after: int

    def scaled(self, factor: int) -> Span:
        """The same tile in units `factor` times finer."""
        return Span(self.start * factor, self.stop * factor, self.before * factor, self.after * factor)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover [0, length) with tiles of equal size, spread evenly, neighbours sharing at least `overlap`.

    Args:
        length: to cover, at least 1.
        tile: a tile's size; if it is longer than `length`, there is one tile of `length`.
        overlap: 0 <= overlap < tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be 0 to {tile - 1} for tiles of {tile}, found {overlap}")
    if length <= tile:
        return [Span(0, length, 0, 0)]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [round(index * (length - tile) / (count - 1)) for index in range(count)]
    # With an overlap over half a tile, a tile overlaps the next but one too; the ramp covers only the nearest.
    shared = [min(starts[i] + tile - starts[i + 1], tile // 2) for i in range(count - 1)]
    return [
        Span(start, start + tile, shared[i - 1] if i else 0, shared[i] if i < count - 1 else 0)
        for i, start in enumerate(starts)
    ]


def ramp(span: Span) -> np.ndarray:
    """(n,): weights along one axis of a tile; a smooth rise over `before`, a fall over `after`, never 0."""
    weight = np.ones(span.stop - span.start, np.float32)
    for count, side in ((span.before, weight), (span.after, weight[::-1])):
        if count:
            side[:count] *= 0.5 - 0.5 * np.cos(math.pi * (np.arange(count, dtype=np.float32) + 0.5) / count)
    return weight


class Blend:
    """The weighted mean of overlapping tiles, accumulated in float32, for a picture of `width` and any height.

    Tiles are added in row order. `finish` releases the rows that no later tile overlaps, so at most one row of tiles is
    in memory.

    Attributes:
        first: the next row to be returned.
    """

    def __init__(self, width: int) -> None:
        self.first = 0
        self._width = width
        self._sum: np.ndarray | None = None  # [B,C,rows,W], from `first` down
        self._weight = np.zeros((0, width), np.float32)

    def add(self, values: np.ndarray, rows: Span, columns: Span) -> None:
        """Add one tile's values (B, C, rows, columns)."""
        total = self._grown(values.shape[:2], rows.stop)
        weight = ramp(rows)[:, None] * ramp(columns)[None, :]
        window = (slice(rows.start - self.first, rows.stop - self.first), columns.slice)
        total[..., window[0], window[1]] += values * weight
        self._weight[window] += weight

    def finish(self, stop: int) -> np.ndarray:
        """Return and release the blended rows from `first` to `stop`."""
        if self._sum is None:
            raise ValueError("no tile was added")
        count = stop - self.first
        done = self._sum[..., :count, :] / self._weight[:count]
        self._sum = self._sum[..., count:, :].copy()
        self._weight = self._weight[count:].copy()
        self.first = stop
        return done

    def _grown(self, leading: tuple[int, ...], stop: int) -> np.ndarray:
        """The sum, with zero rows added up to `stop`."""
        if self._sum is None:
            self._sum = np.zeros((*leading, 0, self._width), np.float32)
        missing = stop - self.first - self._weight.shape[0]
        if missing > 0:
            self._sum = np.concatenate([self._sum, np.zeros((*leading, missing, self._width), np.float32)], axis=2)
            self._weight = np.concatenate([self._weight, np.zeros((missing, self._width), np.float32)])
        return self._sum
