"""Run the one-step student on a picture: large ones in tiles, with the result in strips.

    bicubic to the target size -> VAE encoder -> z_L -> z_hat = z_L - v(z_L) -> VAE decoder -> colour alignment

The decoder of some students reads z_hat with noise (`tsdsr.grain`).

Each of the three networks processes the whole picture, in overlapping tiles whose results are blended, before the next
one starts, so that no network sees seams of the previous one. The bicubic picture is computed per tile too, so only the
latents grow with the picture (one or two bytes per pixel).

Everything here is NumPy, float32; the networks, in PyTorch or ONNX Runtime, receive one batch of tiles at a time.

Legend: B pictures, C latent channels, H W pixels of the result, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tsdsr.grain import grain_by_channel
from tsdsr.inference.color import ALIGNMENTS
from tsdsr.inference.tiles.plan import Geometry, Tile, TilePlan
from tsdsr.inference.tiles.resample import bicubic_window
from tsdsr.inference.tiles.rows import RowStore
from tsdsr.inference.tiles.tiling import Blend

STRIP_PIXELS = 2**19  # pixels of the result per strip


class Networks(Protocol):
    """The engine's networks, which map float32 arrays to float32 arrays and raise MemoryError if memory runs out."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def decoder_noise(self) -> float:
        """Standard deviation of the `grain` that is added to the latents before `decode`."""
        ...

    def encode(self, pixels: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Pixels in [-1, 1] -> latents: the posterior's mode, or with `noise` (as the latents) a sample of it."""
        ...

    def velocity(self, latents: np.ndarray) -> np.ndarray:
        """Latents -> velocity at timestep 1000 with the default prompt, of the same shape."""
        ...

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents -> pixels, nominally in [-1, 1]."""
        ...

    def free_bytes(self) -> float:
        """Bytes of memory available for activations."""
        ...

    def item_bytes(self) -> int:
        """Bytes of one value of an activation."""
        ...


@dataclass(frozen=True)
class Enlargement:
    """The picture to enlarge.

    Attributes:
        image: (B, 3, h, w) in [0, 1], float32.
        size: (H, W) of the result.
    """

    image: np.ndarray
    size: tuple[int, int]

    def window(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """x_L in [0, 1]: these rows and columns of the bicubic enlargement, continued past its edges."""
        return bicubic_window(self.image, self.size, rows=rows, columns=columns).clip(0, 1)


def restore(
    networks: Networks,
    source: Enlargement,
    plan: TilePlan,
    *,
    noise: np.ndarray | None = None,
    step: Callable[[int], Any] = lambda tiles: None,
) -> RowStore:
    """The student's picture, before colour alignment.

    Args:
        networks: the student's.
        source: the picture and the size wanted.
        plan: how to tile.
        noise: (B, C, h, w) standard normal values, to sample the encoder's posterior; None takes its mode.
        step: called with the number of tiles that a network has just processed.

    Returns:
        (B, 3, H, W), about [0, 1] and not clamped. Close it after use.
    """
    batch, geometry = source.image.shape[0], networks.geometry
    factor = geometry.factor
    tiles, codec_tiles = (geometry.tiles(source.size, one) for one in (plan, plan.for_codec))

    def sweep(tiles: list[Tile], network: Callable[[list[Tile]], np.ndarray], scale: int = 1) -> Iterator[np.ndarray]:
        return _sweep(tiles, network, batch=plan.batch, scale=scale, step=step)

    def encode(group: list[Tile]) -> np.ndarray:
        pixels = [source.window(*[(span.start * factor, span.stop * factor) for span in tile]) for tile in group]
        return networks.encode(2 * np.concatenate(pixels) - 1, None if noise is None else _cut(noise, group))

    latents = np.empty((batch, geometry.channels, *geometry.padded(source.size)), np.float32)

    def keep(strips: Iterator[np.ndarray]) -> None:
        first = 0
        for strip in strips:
            latents[:, :, first : first + strip.shape[2]] = strip
            first += strip.shape[2]

    def one_step(group: list[Tile]) -> np.ndarray:
        z = _cut(latents, group)
        return z - networks.velocity(z)

    keep(sweep(codec_tiles, encode))  # z_L
    keep(sweep(tiles, one_step))  # z_hat replaces it: a row is finished when no later tile reads it
    if networks.decoder_noise:
        for channel, values in enumerate(grain_by_channel(*latents.shape[1:])):
            latents[:, channel] += networks.decoder_noise * values
    store = RowStore(batch, 3, source.size[1])
    try:
        for strip in sweep(codec_tiles, lambda group: networks.decode(_cut(latents, group)), factor):
            wanted = source.size[0] - store.height
            store.append((strip[:, :, :wanted, : source.size[1]] + 1) / 2)
    except BaseException:
        store.close()
        raise
    return store


def passes(geometry: Geometry, size: tuple[int, int], plan: TilePlan) -> int:
    """The total of the numbers that `restore` passes to `step`: tiles times networks."""
    return len(geometry.tiles(size, plan)) + 2 * len(geometry.tiles(size, plan.for_codec))


def aligned_strips(store: RowStore, source: Enlargement, color: str) -> Iterator[np.ndarray]:
    """The restored picture with the source's colours, from the top: strips (B, 3, n, W), clamped to [0, 1].

    Args:
        store: the result of `restore`.
        source: its input; the bicubic enlargement is the reference.
        color: a key of `ALIGNMENTS`.
    """
    alignment = ALIGNMENTS[color]
    height, width = source.size
    count = max(1, STRIP_PIXELS // (width * source.image.shape[0]))
    strips = [(start, min(start + count, height)) for start in range(0, height, count)]

    def reference(start: int, stop: int) -> np.ndarray:
        return source.window((start, stop), (0, width))

    align = alignment.prepare(source.image, store.read, reference, strips)
    for start, stop in strips:
        first, last = max(start - alignment.halo, 0), min(stop + alignment.halo, height)
        strip = align(store.read(first, last), reference(first, last))
        yield strip[:, :, start - first : stop - first].clip(0, 1)


def _cut(latents: np.ndarray, group: list[Tile]) -> np.ndarray:
    """The tiles of a group, stacked along the batch axis."""
    return np.concatenate([latents[:, :, rows.slice, columns.slice] for rows, columns in group])


def _sweep(
    tiles: list[Tile],
    network: Callable[[list[Tile]], np.ndarray],
    *,
    batch: int,
    scale: int,
    step: Callable[[int], Any],
) -> Iterator[np.ndarray]:
    """Run `network` over groups of `batch` tiles and yield the finished blended rows.

    `scale` is the network's output pixels per latent.
    """
    blend = Blend(max(columns.stop for _, columns in tiles) * scale)
    for index in range(0, len(tiles), batch):
        group = tiles[index : index + batch]
        for values, (rows, columns) in zip(np.split(network(group), len(group)), group, strict=True):
            blend.add(values, rows.scaled(scale), columns.scaled(scale))
        step(len(group))
        following = tiles[index + batch : index + batch + 1]
        done = following[0][0].start * scale if following else group[-1][0].stop * scale
        if done > blend.first:
            yield blend.finish(done)
