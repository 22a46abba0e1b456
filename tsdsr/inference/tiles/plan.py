"""How a picture is cut into tiles, and the largest tile for the available memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tsdsr.inference.tiles.tiling import Span, spans

Tile = tuple[Span, Span]  # rows, columns, in latents

# Peak bytes of the VAE's decoder per pixel of a tile, in units of (widest full-resolution activation) x (item size): an
# estimate, by counting the input, output, norm and convolution buffers of a residual block; _SHARE is its margin.
_LIVE_ACTIVATIONS = 5
_SHARE = 0.5  # of what is free: the rest is for the pictures, the other networks' activations and everyone else
_OVERLAP = 0.25  # of a tile
_CODEC_TILE = 64  # latents along a side of the VAE's automatic tiles: larger ones save little work
MIN_TOKENS = 4  # along a side of a tile


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one size, in latents.

    Attributes:
        tile, overlap: a side of a tile, and the least overlap of neighbours; multiples of the patch size.
        batch: tiles in a batch.
        codec_tile: a side of a tile of the VAE, which has no table of positions; None = the transformer's.
    """

    tile: int
    overlap: int
    batch: int = 1
    codec_tile: int | None = None

    @property
    def for_codec(self) -> TilePlan:
        """The plan of the VAE."""
        return replace(self, tile=self.codec_tile or self.tile, codec_tile=None)


@dataclass(frozen=True)
class Geometry:
    """The properties of a student's networks that tiling needs.

    Attributes:
        factor: pixels per latent along a side.
        patch: latents per token along a side.
        channels: of a latent.
        limit: latents along a side of the transformer's training size; the maximum of automatic tiles.
        largest: latents along a side of its table of positions; the maximum of any tile.
        width: channels of the decoder's widest activation at full resolution.
    """

    factor: int
    patch: int
    channels: int
    limit: int
    largest: int
    width: int

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Latents (h, w), in whole tokens, that cover `size` = (H, W) pixels."""
        token = self.factor * self.patch
        return -(-size[0] // token) * self.patch, -(-size[1] // token) * self.patch

    def tiles(self, size: tuple[int, int], plan: TilePlan) -> list[Tile]:
        """The plan's tiles over `size` = (H, W) pixels, row by row. They begin and end on whole tokens."""
        tile, overlap = plan.tile // self.patch, plan.overlap // self.patch
        axes = (spans(side // self.patch, tile, overlap) for side in self.padded(size))
        rows, columns = ([span.scaled(self.patch) for span in axis] for axis in axes)
        return list(product(rows, columns))


def plan_tiles(
    geometry: Geometry, *, tile: int | str | None, overlap: int | None, batch: int, free: float, item: int = 4
) -> TilePlan:
    """A plan in latents from options in pixels.

    Args:
        geometry: of the networks.
        tile: a side in pixels; "auto" (by memory and the model's training size); None = no tiles.
        overlap: in pixels; None = a quarter of a tile.
        batch: tiles in a batch.
        free: bytes of memory.
        item: bytes of one value of an activation.

    Raises:
        ValueError: the tile or the overlap is invalid.
    """
    if batch < 1:
        raise ValueError(f"tiles at once must be 1 or more, found {batch}")
    factor, patch = geometry.factor, geometry.patch
    smallest = MIN_TOKENS * patch
    codec = None
    if tile is None:
        side = geometry.largest
    elif tile == "auto":
        pixels = (_SHARE * free / (_LIVE_ACTIVATIONS * geometry.width * item * batch)) ** 0.5
        affordable = int(pixels) // factor
        side = max(min(geometry.limit, geometry.largest, affordable), smallest)
        codec = min(_CODEC_TILE, affordable) // patch * patch
    elif isinstance(tile, int) and tile >= smallest * factor:
        side = min(tile // factor, geometry.largest)
    else:
        raise ValueError(f"tile must be auto or at least {smallest * factor} pixels, found {tile!r}")
    side -= side % patch
    wanted = side * _OVERLAP if overlap is None else overlap / factor
    shared = round(wanted / patch) * patch
    if not 0 <= wanted <= side / 2:
        raise ValueError(f"overlap must be 0 to {side // 2 * factor} pixels (half a tile), found {overlap}")
    return TilePlan(side, shared, batch, codec if codec and codec > side else None)


def smaller(plan: TilePlan, patch: int) -> TilePlan | None:
    """The next plan after one ran out of memory: a smaller batch, then smaller tiles for the VAE, then half the
    side."""
    if plan.batch > 1:
        return TilePlan(plan.tile, plan.overlap, 1, plan.codec_tile)
    if plan.codec_tile:
        return TilePlan(plan.tile, plan.overlap, 1)
    side = plan.tile // 2 // patch * patch
    if side < MIN_TOKENS * patch:
        return None
    return TilePlan(side, plan.overlap // 2 // patch * patch, 1)
