"""One picture through the one-step student: tile by tile where it is large, strip by strip where it comes out.

    bicubic to the target size -> VAE encoder -> z_L -> z_hat = z_L - v(z_L) -> VAE decoder -> colour alignment

Each of the three networks runs over the whole picture, in overlapping tiles whose results are blended, before the next
one starts: a network never sees the seam of the one before. The bicubic picture is made tile by tile too, so what grows
with the picture is the latents alone (a byte or two a pixel).

Legend: B pictures, C latent channels, H W pixels of the result, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tsdsr.inference.color import ALIGNMENTS
from tsdsr.inference.tiles.resample import bicubic_window
from tsdsr.inference.tiles.rows import RowStore
from tsdsr.inference.tiles.tiling import Blend, Span, spans
from tsdsr.models.codec import LatentCodec

Tile = tuple[Span, Span]  # rows, columns, in latents
STRIP_PIXELS = 2**19  # of the result in a strip, whatever its width


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one size, in latents.

    Attributes:
        tile, overlap: a side of a tile, and what neighbours share at least; multiples of the patch size.
        batch: tiles that go through a network together.
        codec_tile: a side of a tile of the VAE, which has no positions to run out of; None = as the transformer's.
    """

    tile: int
    overlap: int
    batch: int = 1
    codec_tile: int | None = None

    @property
    def for_codec(self) -> TilePlan:
        """The plan that the VAE follows."""
        return replace(self, tile=self.codec_tile or self.tile, codec_tile=None)


@dataclass(frozen=True)
class Networks:
    """What the engine runs: the codec, and latents -> velocity. `patch` is the latents per token along a side."""

    codec: LatentCodec
    velocity: Callable[[Tensor], Tensor]
    patch: int
    device: torch.device

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Latents (h, w), in whole tokens, that cover `size` = (H, W) pixels."""
        token = self.codec.factor * self.patch
        return -(-size[0] // token) * self.patch, -(-size[1] // token) * self.patch

    def tiles(self, size: tuple[int, int], plan: TilePlan) -> list[Tile]:
        """The plan's tiles over `size` = (H, W) pixels, row by row. They begin and end on whole tokens."""
        tile, overlap = plan.tile // self.patch, plan.overlap // self.patch
        axes = (spans(side // self.patch, tile, overlap) for side in self.padded(size))
        rows, columns = ([span.scaled(self.patch) for span in axis] for axis in axes)
        return list(product(rows, columns))

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """Pixels in [-1, 1] -> latents: the posterior's mode, or with `noise` (as the latents) a sample of it."""
        if noise is None:
            return self.codec.encode(images)
        vae = self.codec.vae
        posterior = vae.encode(images.to(vae.dtype)).latent_dist
        sample = posterior.mean.float() + posterior.std.float() * noise
        return (sample - self.codec.shift) * vae.config.scaling_factor


@dataclass(frozen=True)
class Source:
    """The picture to enlarge.

    Attributes:
        image: (B, 3, h, w) in [0, 1], float32, on the CPU.
        size: (H, W) of the result.
    """

    image: Tensor
    size: tuple[int, int]

    def window(self, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """x_L in [0, 1]: these rows and columns of the bicubic enlargement, continued past its edges."""
        return bicubic_window(self.image, self.size, rows=rows, columns=columns).clamp(0, 1)


def restore(
    networks: Networks,
    source: Source,
    plan: TilePlan,
    *,
    noise: Tensor | None = None,
    step: Callable[[int], Any] = lambda tiles: None,
) -> RowStore:
    """The student's picture, before colour alignment.

    Args:
        networks: on their device.
        source: the picture and the size wanted.
        plan: how to tile.
        noise: (B, C, h, w) standard normal values, to sample the encoder's posterior; None takes its mode.
        step: called with the number of tiles that have just gone through a network.

    Returns:
        (B, 3, H, W), about [0, 1] and not clamped. Close it after use.
    """
    batch = source.image.shape[0]
    factor = networks.codec.factor
    tiles, codec_tiles = (networks.tiles(source.size, one) for one in (plan, plan.for_codec))

    def sweep(tiles: list[Tile], network: Callable[[list[Tile]], Tensor], scale: int = 1) -> Iterator[Tensor]:
        return _sweep(tiles, network, batch=plan.batch, rows_of=batch, scale=scale, device=networks.device, step=step)

    def encode(group: list[Tile]) -> Tensor:
        pixels = [source.window(*[(span.start * factor, span.stop * factor) for span in tile]) for tile in group]
        drawn = None if noise is None else _cut(noise, group).to(networks.device)
        return networks.encode(2 * torch.cat(pixels).to(networks.device) - 1, drawn)

    channels = networks.codec.vae.config.latent_channels
    latents = torch.empty(batch, channels, *networks.padded(source.size), device=networks.device)

    def keep(strips: Iterator[Tensor]) -> None:
        first = 0
        for strip in strips:
            latents[:, :, first : first + strip.shape[2]] = strip
            first += strip.shape[2]

    def one_step(group: list[Tile]) -> Tensor:
        z = _cut(latents, group)
        return z - networks.velocity(z).to(z.dtype)

    keep(sweep(codec_tiles, encode))  # z_L
    keep(sweep(tiles, one_step))  # z_hat in its place: a row is done when no later tile reads it
    store = RowStore(batch, 3, source.size[1])
    try:
        for strip in sweep(codec_tiles, lambda group: networks.codec.decode(_cut(latents, group)), factor):
            wanted = source.size[0] - store.height
            store.append(strip[:, :, :wanted, : source.size[1]].add_(1).div_(2))
    except BaseException:
        store.close()
        raise
    return store


def passes(networks: Networks, size: tuple[int, int], plan: TilePlan) -> int:
    """The sum of what `restore` hands to `step`: tiles times networks."""
    return len(networks.tiles(size, plan)) + 2 * len(networks.tiles(size, plan.for_codec))


def aligned_strips(store: RowStore, source: Source, color: str) -> Iterator[Tensor]:
    """The restored picture with the source's colours, from the top: strips (B, 3, n, W), clamped to [0, 1].

    Args:
        store: what `restore` returned.
        source: what it was given; its bicubic enlargement is the reference.
        color: a key of `ALIGNMENTS`.
    """
    alignment = ALIGNMENTS[color]
    height, width = source.size
    count = max(1, STRIP_PIXELS // (width * source.image.shape[0]))
    strips = [(start, min(start + count, height)) for start in range(0, height, count)]

    def reference(start: int, stop: int) -> Tensor:
        return source.window((start, stop), (0, width))

    align = alignment.prepare(source.image, store.read, reference, strips)
    for start, stop in strips:
        first, last = max(start - alignment.halo, 0), min(stop + alignment.halo, height)
        strip = align(store.read(first, last), reference(first, last))
        yield strip[:, :, start - first : stop - first].clamp(0, 1)


def _cut(latents: Tensor, group: list[Tile]) -> Tensor:
    """The tiles of a group, one below the other in the batch."""
    return torch.cat([latents[:, :, rows.slice, columns.slice] for rows, columns in group])


def _sweep(
    tiles: list[Tile],
    network: Callable[[list[Tile]], Tensor],
    *,
    batch: int,
    rows_of: int,
    scale: int,
    device: torch.device,
    step: Callable[[int], Any],
) -> Iterator[Tensor]:
    """Run `network` over groups of `batch` tiles and yield the blended rows as they are done.

    `scale` is the network's output pixels per latent; `rows_of` the pictures in a tile's batch.
    """
    width = max(columns.stop for _, columns in tiles) * scale
    blend = Blend(width, device)
    for index in range(0, len(tiles), batch):
        group = tiles[index : index + batch]
        for values, (rows, columns) in zip(network(group).split(rows_of), group, strict=True):
            blend.add(values, rows.scaled(scale), columns.scaled(scale))
        step(len(group))
        following = tiles[index + batch : index + batch + 1]
        done = following[0][0].start * scale if following else group[-1][0].stop * scale
        if done > blend.first:
            yield blend.finish(done)
