"""The artefact guard: a fixed, held-out set of training crops, which is restored at regular steps.

Such students can develop black spots and grids that no loss curve shows. The guard scores the student's output, before
colour alignment, and warns if there is excess energy at the transformer's patch frequency.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from tsdsr.config.distill import ValidationConfig
from tsdsr.data.images import denormalized, read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.losses.pattern import MIN_PATCHES
from tsdsr.methods.base import Distillation
from tsdsr.metrics import METRICS, ImageBatch, LocalExecutor
from tsdsr.metrics.pattern import periodic_pattern
from tsdsr.models.student import upsample

logger = logging.getLogger(__name__)
SCORES = ("psnr", "niqe")
PATTERN = "pattern_db"


@dataclass(frozen=True)
class Validation:
    """The result of one validation.

    Attributes:
        values: means over the set: `psnr` (dB), `niqe`, and `pattern_db`, the periodic-pattern score over that of the
            photographs. Values for which the images are too small are left out.
        sheet: uint8 (H, W, 3): one column per image; LQ, restored, HQ from top to bottom.
    """

    values: dict[str, float]
    sheet: np.ndarray


def held_out(ids: Sequence[str], config: ValidationConfig) -> list[str]:
    """The pairs of the set, evenly spaced by name.

    Raises:
        UserError: nothing would be left for training.
    """
    if config.images >= len(ids):
        raise UserError(
            f"distill.validation.images: {config.images} of {len(ids)} training pairs would be held out; lower it"
        )
    return [ids[(2 * index + 1) * len(ids) // (2 * config.images)] for index in range(config.images)]


def broken_steps(looks: Sequence[Mapping[str, float]], limit: float) -> list[int]:
    """The steps at which the pattern exceeded its former minimum, or 0 dB, by more than `limit` dB.

    Args:
        looks: `step` and the values of each validation, in order.
    """
    scores = [(int(row["step"]), row[PATTERN]) for row in looks if PATTERN in row]
    lowest = list(accumulate((score for _, score in scores), min, initial=0.0))
    return [step for (step, score), before in zip(scores, lowest, strict=False) if score > before + limit]


class ArtefactGuard:
    """Restores the set and scores it.

    Args:
        method: trained or in training.
        pairs: the training pairs; `ids` are those of the set, whose LQ images are read from disk.
        scale: HQ side / LQ side.
        config: its `max_pattern_rise_db` is the warning's threshold.
    """

    def __init__(
        self,
        method: Distillation,
        pairs: PairFolder,
        ids: Sequence[str],
        *,
        scale: int,
        config: ValidationConfig,
        device: torch.device,
    ) -> None:
        self.method, self.scale, self.config, self.device = method, scale, config, device
        self._lq = [read_image(pairs.lq_path(name)) for name in ids]
        self._hq = [read_image(pairs.hq_path(name)) for name in ids]
        self._period = method.pattern_period
        self._score = LocalExecutor(device)
        side = min(min(image.shape[-2:]) for image in self._hq)
        self._metrics = tuple(name for name in SCORES if METRICS[name].min_side <= side)
        self._patches_fit = side // self._period >= MIN_PATCHES
        self._photographs = np.mean([self._pattern(image) for image in self._hq]) if self._patches_fit else 0.0

    @torch.no_grad()
    def look(self, step: int, earlier: Sequence[dict[str, float]]) -> Validation:
        """Restore and score the set; warn of a pattern.

        Args:
            step: steps done. earlier: the values of earlier validations.
        """
        restored = [self._restore(lq) for lq in self._lq]
        values = self._scores(restored)
        if self._patches_fit:
            values[PATTERN] = float(np.mean([self._pattern(image) for image in restored]) - self._photographs)
            lowest = min([0.0, *(row[PATTERN] for row in earlier)])
            rise = values[PATTERN] - lowest
            if rise > self.config.max_pattern_rise_db:
                logger.warning(
                    "step %d: the restored validation images hold a periodic pattern: energy at the patch frequency is "
                    "%.1f dB over its neighbours' (photographs, or the best so far: %.1f dB). Look at the sheet; lower "
                    "guidance_scale, the weight of tsd, or the learning rate.",
                    step,
                    values[PATTERN],
                    lowest,
                )
        rows = [[upsample(lq[None], self.scale)[0] for lq in self._lq], restored, self._hq]
        sheet = torch.cat([torch.cat([image.cpu() for image in row], dim=2) for row in rows], dim=1)
        return Validation(values, denormalized(sheet))

    def _restore(self, lq: Tensor) -> Tensor:
        """[3,h,w] -> [3,H,W], in [-1, 1]."""
        x_lq = upsample(lq[None].to(self.device), self.scale)
        return self.method.restore(x_lq)[0].float().clamp(-1, 1).cpu()

    def _scores(self, restored: Sequence[Tensor]) -> dict[str, float]:
        images, references = (np.stack([denormalized(image) for image in side]) for side in (restored, self._hq))
        names = tuple(str(index) for index in range(len(restored)))
        scores = self._score.score(ImageBatch(names, self._metrics, images, references)).values
        means = {name: float(np.nanmean(column)) for name, column in scores.items() if not np.isnan(column).all()}
        return {name: means[name] for name in SCORES if name in means}

    def _pattern(self, image: Tensor) -> float:
        return float(periodic_pattern((image[None] + 1) / 2, self._period))
