"""`Upscaler`: a student's networks for pictures of any size, with NumPy arrays as input and output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tsdsr.errors import UserError
from tsdsr.inference.color import ALIGNMENTS
from tsdsr.inference.tiles.engine import Enlargement, Networks, aligned_strips, passes, restore
from tsdsr.inference.tiles.plan import TilePlan, plan_tiles, smaller
from tsdsr.inference.tiles.rows import RowStore

logger = logging.getLogger(__name__)
Color = Literal["wavelet", "adain", "none"]
_MIN_SIDE = 16  # smallest side that is not padded
_UNBOUNDED = 2.0**60  # bytes


@dataclass(frozen=True)
class Tiling:
    """The options of tiling.

    Attributes:
        tile: a side in pixels of the result; "auto": by the available memory; None: no tiles.
        overlap: pixels that neighbours share (default: a quarter of a tile).
        batch: tiles in a batch.
    """

    tile: int | Literal["auto"] | None = "auto"
    overlap: int | None = None
    batch: int = 1


DEFAULT_TILING = Tiling()


@dataclass(frozen=True)
class Upscaler:
    """The one-step student.

    Attributes:
        networks: the student's.
        scale: the student's training scale.
    """

    networks: Networks
    scale: float

    def strips(
        self,
        image: np.ndarray,
        size: tuple[int, int],
        *,
        color: Color = "wavelet",
        tiling: Tiling = DEFAULT_TILING,
        noise: Callable[[tuple[int, ...]], np.ndarray] | None = None,
        step: Callable[[int, int], Any] = lambda done, total: None,
    ) -> Iterator[np.ndarray]:
        """Enlarge pictures of one size, and yield the result from the top in strips, so that it need not fit in memory.

        Args:
            image: (B, 3, h, w) in [0, 1], float32.
            size: (H, W) of the result.
            color: a key of `ALIGNMENTS`.
            noise: draws standard normal values of a shape, to sample the encoder's posterior; None takes its mode.
            step: called with (tiles done, tiles in all), counting each network's.

        Yields:
            (B, 3, n, W) in [0, 1], float32.

        Raises:
            UserError: the colour alignment or the tile is invalid, or memory is too small for the smallest tiles.
        """
        if color not in ALIGNMENTS:
            raise UserError(f"color {color!r}: must be one of {', '.join(ALIGNMENTS)}")
        source = _padded(image, size)
        drawn = None
        if noise is not None:
            geometry = self.networks.geometry
            drawn = noise((image.shape[0], geometry.channels, *geometry.padded(source.size)))
        left = size[0]
        with self._restored(source, tiling, drawn, step) as store:
            for strip in aligned_strips(store, source, color):
                yield strip[:, :, :left, : size[1]]
                left -= strip.shape[2]
                if left <= 0:
                    return

    def check_tiling(self, tiling: Tiling) -> None:
        """Check the tiling options, independent of a picture's size.

        Raises:
            UserError: the tile or the overlap is invalid.
        """
        self._plan(tiling, _UNBOUNDED)

    def _plan(self, tiling: Tiling, free: float) -> TilePlan:
        networks = self.networks
        words: dict[str, Any] = {"tile": tiling.tile, "overlap": tiling.overlap, "batch": tiling.batch}
        try:
            return plan_tiles(networks.geometry, **words, free=free, item=networks.item_bytes())
        except ValueError as error:
            raise UserError(str(error)) from None

    def _restored(
        self, source: Enlargement, tiling: Tiling, noise: np.ndarray | None, step: Callable[[int, int], Any]
    ) -> RowStore:
        """The restored picture; after running out of memory, a retry with smaller tiles."""
        geometry = self.networks.geometry
        plan: TilePlan | None = self._plan(tiling, self.networks.free_bytes())
        while plan is not None:
            total, done = passes(geometry, source.size, plan), 0

            def advance(tiles: int, total: int = total) -> None:
                nonlocal done
                done += tiles
                step(done, total)

            try:
                return restore(self.networks, source, plan, noise=noise, step=advance)
            except MemoryError:
                plan = self._shrink(plan)
        raise UserError("out of memory even with the smallest tiles; free memory, or choose a smaller size")

    def _shrink(self, plan: TilePlan) -> TilePlan | None:
        geometry = self.networks.geometry
        following = smaller(plan, geometry.patch)
        if following is not None:
            logger.warning(
                "out of memory with tiles of %d pixels, %d at once; trying %d pixels, %d at once",
                *(part for p in (plan, following) for part in (p.for_codec.tile * geometry.factor, p.batch)),
            )
        return following


def _padded(image: np.ndarray, size: tuple[int, int]) -> Enlargement:
    """Sides of less than 16 pixels are padded by their edge to a multiple of their length."""
    times = [-(-_MIN_SIDE // side) for side in image.shape[-2:]]
    if times == [1, 1]:
        return Enlargement(image, size)
    missing = [(0, side * (count - 1)) for side, count in zip(image.shape[-2:], times, strict=True)]
    padded = np.pad(image, [(0, 0), (0, 0), *missing], mode="edge")
    return Enlargement(padded, (size[0] * times[0], size[1] * times[1]))
