"""Training batches from pairs and cached latents, addressed by position.

Position p = step * global batch + row names one sample of the whole run. Which pair it is, and every random draw made
for it, follow from (seed, p) alone: any number of workers sees the same samples with the same noise, and a resumed run
goes on at the exact sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsdsr import seeding
from tsdsr.data.cache import LatentCache
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError


@dataclass(frozen=True)
class Batch:
    """B samples.

    Attributes:
        lq, hq: [B,3,h,w] and [B,3,H,W] in [-1, 1].
        z: [B,C,H/f,W/f], the cached latent of hq.
        embeds, pooled: [B,L,D] and [B,P], the captions.
        positions: the samples' places in the run.
    """

    lq: Tensor
    hq: Tensor
    z: Tensor
    embeds: Tensor
    pooled: Tensor
    positions: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        return replace(self, **{name: getattr(self, name).to(device) for name in ("lq", "hq", "z", "embeds", "pooled")})


Degrade = Callable[[np.ndarray, str, int], np.ndarray]
"""(HQ uint8 (H, W, 3), pair id, epoch) -> LQ uint8 (h, w, 3)."""


class DistillationData:
    """Pairs and latents, joined by id.

    Args:
        pairs: HQ and, for `degrade=None`, LQ images.
        cache: the latents of their HQ images, and captions.
        seed: of the order.
        degrade: makes each epoch's own LQ images from the HQ ones; None reads those on disk in every epoch.

    Raises:
        UserError: when the cache lacks a pair, naming what to run.
    """

    def __init__(self, pairs: PairFolder, cache: LatentCache, *, seed: int, degrade: Degrade | None = None) -> None:
        self.pairs, self.cache, self.seed, self.degrade = pairs, cache, seed, degrade
        self._row = {name: row for row, name in enumerate(cache.ids)}
        missing = [name for name in pairs.ids if name not in self._row]
        if missing:
            raise UserError(
                f"{len(missing)} training pairs have no cached latent (first: {missing[0]}); run `dvc repro precompute`"
            )
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def __len__(self) -> int:
        return len(self.pairs.ids)

    def name(self, position: int) -> str:
        """The pair at a position: every epoch is a fresh permutation of all pairs."""
        epoch, place = divmod(position, len(self))
        return self.pairs.ids[self._permutation(epoch)[place]]

    def batch(self, positions: Sequence[int]) -> Batch:
        names = [self.name(position) for position in positions]
        rows = [self._row[name] for name in names]
        images = [self._images(name, position // len(self)) for name, position in zip(names, positions, strict=True)]
        prompts = [self.cache.prompt(row) for row in rows]
        return Batch(
            lq=torch.stack([lq for lq, _ in images]),
            hq=torch.stack([hq for _, hq in images]),
            z=torch.stack([self.cache.latent(row) for row in rows]),
            embeds=torch.stack([prompt.embeds for prompt in prompts]).float(),
            pooled=torch.stack([prompt.pooled for prompt in prompts]).float(),
            positions=tuple(positions),
        )

    def prefetched(self, wanted: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """The batches of these positions, each read in the background while the one before is used."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = [reader.submit(self.batch, positions) for positions in wanted[:2]]
            for upcoming in range(len(wanted)):
                batch = waiting.pop(0).result()
                if upcoming + 2 < len(wanted):
                    waiting.append(reader.submit(self.batch, wanted[upcoming + 2]))
                yield batch

    def _images(self, name: str, epoch: int) -> tuple[Tensor, Tensor]:
        hq = _read(self.pairs.hq_path(name))
        lq = _read(self.pairs.lq_path(name)) if self.degrade is None else self.degrade(hq, name, epoch)
        return _normalized(lq), _normalized(hq)

    def _draw_permutation(self, epoch: int) -> list[int]:
        return seeding.numpy_generator(self.seed, "order", epoch).permutation(len(self)).tolist()


def _read(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _normalized(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> [3,H,W] in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
