"""Training batches from pairs and cached latents, addressed by position.

Position p = step * global batch + row identifies one sample of the whole run. Its pair and all of its random draws are
determined by (seed, p) alone: any number of workers sees the same samples with the same noise, and a resumed run
continues at the exact sample.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tsdsr import seeding
from tsdsr.data.cache import LatentCache, mirrored
from tsdsr.data.images import normalized, read_pixels
from tsdsr.data.pairs import PairFolder
from tsdsr.device import send
from tsdsr.errors import UserError
from tsdsr.models.prompt import Prompt


@dataclass(frozen=True)
class Batch:
    """B samples.

    Attributes:
        lq, hq: [B,3,h,w] and [B,3,H,W] in [-1, 1].
        z: [B,C,H/f,W/f], the cached latent of hq.
        embeds, pooled: [B,L,D] and [B,P], the captions, in the cache's dtype.
        positions: the samples' positions in the run.
        names: their ids in the latent cache (mirrored images have separate ones).
    """

    lq: Tensor
    hq: Tensor
    z: Tensor
    embeds: Tensor
    pooled: Tensor
    positions: tuple[int, ...]
    names: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        return replace(
            self, **{name: send(getattr(self, name), device) for name in ("lq", "hq", "z", "embeds", "pooled")}
        )


Degrade = Callable[[np.ndarray, str, int], np.ndarray]
"""(HQ uint8 (H, W, 3), pair id, epoch) -> LQ uint8 (h, w, 3)."""


class DistillationData:
    """Pairs and latents, joined by id.

    Args:
        pairs: HQ and, for `degrade=None`, LQ images.
        cache: the latents of their HQ images, and captions.
        seed: for the order.
        degrade: makes new LQ images from the HQ ones in each epoch; None: those on disk are used in every epoch.
        crop_size: side in HQ pixels of a random crop, cut from LQ, HQ and latent at a position on the grid of all
            three; None = the whole pair.
        flip: mirror half of the samples; the cache must hold the mirror images' latents (`precompute.flips`).
        held_out: pairs to leave out.
        readers: processes that prepare batches; 0 = a thread of this one.

    Raises:
        UserError: the cache lacks a pair, or a crop does not fit.
    """

    def __init__(
        self,
        pairs: PairFolder,
        cache: LatentCache,
        *,
        seed: int,
        degrade: Degrade | None = None,
        crop_size: int | None = None,
        flip: bool = False,
        held_out: Collection[str] = (),
        readers: int = 0,
    ) -> None:
        self.pairs, self.cache, self.seed, self.degrade = pairs, cache, seed, degrade
        self.crop_size, self.flip, self.readers = crop_size, flip, readers
        self.ids = [name for name in pairs.ids if name not in held_out]
        self._row = {name: row for row, name in enumerate(cache.ids)}
        missing = [name for name in self.names if name not in self._row]
        if missing:
            raise UserError(
                f"{len(missing)} training images lack a cached latent (first: {missing[0]}); run `dvc repro precompute`"
                + (", with precompute.flips: true" if flip else "")
            )
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> list[str]:
        """All ids of the latent cache that samples use."""
        return [*self.ids, *(mirrored(name) for name in self.ids if self.flip)]

    def latent(self, name: str) -> Tensor:
        """The latent [C,h,w] of one of `names`."""
        return self.cache.latent(self._row[name])

    def restored(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """z_tea and z_L of some of `names`, both [B,C,h,w]."""
        z_tea, z_lq = torch.stack([self.cache.restored(self._row[name]) for name in names], dim=1)
        return z_tea, z_lq

    def caption(self, name: str) -> Prompt:
        """The caption of one of `names`."""
        return self.cache.prompt(self._row[name])

    def name(self, position: int) -> str:
        """The pair at a position; every epoch is a new permutation of all pairs."""
        epoch, place = divmod(position, len(self))
        return self.ids[self._permutation(epoch)[place]]

    def batch(self, positions: Sequence[int]) -> Batch:
        samples = [self._sample(position) for position in positions]
        *tensors, names = zip(*samples, strict=True)
        lq, hq, z, embeds, pooled = (torch.stack(part) for part in tensors)
        return Batch(lq, hq, z, embeds, pooled, tuple(positions), tuple(names))

    def prefetched(self, wanted: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """The batches of these positions, read in the background while others are used; in order, and the same for any
        number of readers."""
        if self.readers:
            yield from self._by_processes(wanted)
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting: deque[Future[Batch]] = deque()
            for positions in wanted:
                waiting.append(reader.submit(self.batch, positions))
                if len(waiting) > 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _by_processes(self, wanted: Iterable[Sequence[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            _ByPositions(self),
            batch_size=None,  # an item is a batch
            sampler=wanted,
            collate_fn=lambda item: item,
            num_workers=self.readers,
            worker_init_fn=_begin_reading,
            multiprocessing_context="fork",  # so that the data need not be sent to them
        )
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item

    def _sample(self, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, str]:
        name, epoch = self.name(position), position // len(self)
        rng = seeding.numpy_generator(self.seed, "augment", position)
        pixels = read_pixels(self.pairs.hq_path(name))
        degraded = read_pixels(self.pairs.lq_path(name)) if self.degrade is None else self.degrade(pixels, name, epoch)
        lq, hq = normalized(degraded), normalized(pixels)
        flipped = self.flip and rng.random() < 0.5
        row_name = mirrored(name) if flipped else name
        row = self._row[row_name]
        z = self.cache.latent(row)
        if flipped:
            lq, hq = lq.flip(-1), hq.flip(-1)
        if self.crop_size is not None:
            lq, hq, z = _aligned_crop(lq, hq, z, self.crop_size, rng)
        prompt = self.cache.prompt(row)
        return lq, hq, z, prompt.embeds, prompt.pooled, row_name

    def _draw_permutation(self, epoch: int) -> list[int]:
        return seeding.numpy_generator(self.seed, "order", epoch).permutation(len(self)).tolist()


class _ByPositions(Dataset[Batch | UserError]):
    """The data set for PyTorch's loader. A `UserError` is returned instead of raised, since the loader would add a
    traceback to its text."""

    def __init__(self, data: DistillationData) -> None:
        self.data = data

    def __getitem__(self, positions: Sequence[int]) -> Batch | UserError:
        try:
            return self.data.batch(positions)
        except UserError as error:
            return error


def _begin_reading(reader: int) -> None:
    """Initialise a reader's process: ignore Ctrl-C, since the training ends its readers after its step, and disable
    OpenCV's threads, which do not exist after a fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _aligned_crop(
    lq: Tensor, hq: Tensor, z: Tensor, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut all three at one position, whose HQ coordinates are multiples of the VAE's factor and of the scale."""
    grid = math.lcm(hq.shape[-1] // lq.shape[-1], hq.shape[-1] // z.shape[-1])
    if size % grid or size > min(hq.shape[-2:]):
        raise UserError(
            f"distill.augment.crop_size: {size} must be a multiple of {grid} and at most {min(hq.shape[-2:])}"
        )
    top, left = (int(rng.integers((side - size) // grid + 1)) * grid for side in hq.shape[-2:])
    cut = []
    for image in (lq, hq, z):
        step = hq.shape[-1] // image.shape[-1]
        rows, columns = slice(top // step, (top + size) // step), slice(left // step, (left + size) // step)
        cut.append(image[:, rows, columns])
    return cut[0], cut[1], cut[2]
