"""Score a folder of images by every available metric, decoding each image once.

The steps: report every fault; look up cached scores; batch the remaining images by size; compute; cache.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache as cache_calls
from pathlib import Path

import numpy as np
import torch

from tsdsr.errors import UserError
from tsdsr.metrics import backend, folder_metrics
from tsdsr.metrics.cache import ScoreCache, version
from tsdsr.metrics.executor import Executor, ImageBatch, LocalExecutor, choose_device
from tsdsr.metrics.images import Item, Problem, collect, too_small
from tsdsr.metrics.registry import Metric, select

logger = logging.getLogger(__name__)
DEFAULT_CACHE = Path(".tsdsr/scores")
LOG_SECONDS = 10.0
ALL = "(all images)"  # the name in a fault of the whole run


@dataclass
class Scores:
    """The result of scoring a folder.

    Attributes:
        names: the scored images, sorted.
        metrics: the chosen rows.
        values: metric -> image -> score, if there is one.
        dataset: metric -> the number of the whole folder, for metrics that score folders.
        reasons: metric -> the reason for its empty column.
        problems: every fault of the input and every image without a score; if not empty, the results are partial.
        sides: every height and width among the images, in pixels.
        weights: metric -> weights -> sha256.
        computed: number of image scores that were not cached.
    """

    names: list[str]
    metrics: list[Metric]
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    dataset: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sides: set[int] = field(default_factory=set)
    weights: dict[str, dict[str, str]] = field(default_factory=dict)
    computed: int = 0

    @property
    def partial(self) -> bool:
        return bool(self.problems)

    def means(self) -> dict[str, float]:
        """metric -> mean over images, or the folder's number; in the registry's order, without empty columns."""
        means = {name: float(np.mean(list(column.values()))) for name, column in self.values.items() if column}
        means |= self.dataset
        return {metric.name: means[metric.name] for metric in self.metrics if metric.name in means}


def score_folder(
    restored: str | Path,
    reference: str | Path | None,
    metrics: Sequence[str] | None = None,
    *,
    device: torch.device | None = None,
    batch_size: int = 4,
    weights_folders: Sequence[str | Path] = (),
    cache: str | Path | None = DEFAULT_CACHE,
    executor: Executor | None = None,
    on_interruption: Callable[[Scores], object] | None = None,
) -> Scores:
    """Score every image of a folder.

    Args:
        restored: folder of images.
        reference: folder of references of equal names and sizes; None leaves out metrics that need one.
        metrics: names; None = all.
        device: None = CUDA if there is one.
        batch_size: images of one size in a batch.
        weights_folders: searched before the caches.
        cache: of scores; None = no cache.
        executor: computes batches; None = in this process.
        on_interruption: receives the scores so far, marked as partial, on a KeyboardInterrupt or SystemExit, which is
            then raised again.

    Raises:
        UserError: nothing can be scored: no such folder, no image, no pair.
    """
    device = device or choose_device()
    items, problems = collect(restored, reference)
    wanted = select(None if metrics is None else list(metrics))
    sides = {side for item in items for side in item.shape}
    scores = Scores([item.name for item in items], wanted, problems=problems, sides=sides)
    _find_reasons(scores, reference is not None, weights_folders)
    usable = [metric for metric in wanted if metric.name not in scores.reasons]
    scores.problems += too_small(items, usable)
    for problem in scores.problems:
        logger.error("%s", problem)
    for name, reason in scores.reasons.items():
        _warn_once(f"{name} is left empty: {reason}")
    if not items:
        raise UserError(f"{restored}: no image can be scored; " + "; ".join(map(str, problems)))
    known = ScoreCache(cache)
    keys = {metric: version(metric, scores.weights[metric.name], device) for metric in usable}
    by_image = {metric: key for metric, key in keys.items() if metric.per_image}
    try:
        _score_images(scores, items, by_image, known, executor or LocalExecutor(device, weights_folders), batch_size)
        for metric in usable:
            if not metric.per_image:
                _score_all(scores, items, metric, keys[metric], known, device, weights_folders)
    except (KeyboardInterrupt, SystemExit):
        if on_interruption:
            on_interruption(_until_now(scores, usable))
        raise
    return scores


def _until_now(scores: Scores, usable: Sequence[Metric]) -> Scores:
    """The result of an interrupted scoring: the images with every score, the others as one fault."""
    columns = {metric.name: scores.values.get(metric.name, {}) for metric in usable if metric.per_image}
    impossible = {(problem.name, problem.metric) for problem in scores.problems}
    done = [
        name
        for name in scores.names
        if all(name in column or (name, metric) in impossible for metric, column in columns.items())
    ]
    fault = f"scoring was interrupted: {len(scores.names) - len(done)} of {len(scores.names)} images are not scored"
    scores.problems.append(Problem(ALL, fault))
    scores.names = done
    scores.values = {
        name: {image: value for image, value in column.items() if image in done}
        for name, column in scores.values.items()
    }
    for metric in usable:
        if not scores.values.get(metric.name) and metric.name not in scores.dataset:
            scores.reasons.setdefault(metric.name, "scoring was interrupted")
    return scores


@cache_calls
def _warn_once(message: str) -> None:
    """Cached, since a stage scores several folders with the same weights."""
    logger.warning("%s", message)


def _find_reasons(scores: Scores, has_reference: bool, folders: Sequence[str | Path]) -> None:
    for metric in scores.metrics:
        reason = backend.unavailable(metric, folders)
        if metric.needs_reference and not has_reference:
            scores.reasons[metric.name] = "needs a reference, and no reference folder was given"
        elif reason is not None:
            scores.reasons[metric.name] = reason
        else:
            scores.weights[metric.name] = backend.weight_digests(metric, folders)


def _score_images(
    scores: Scores, items: list[Item], keys: dict[Metric, str], cache: ScoreCache, executor: Executor, batch_size: int
) -> None:
    """Fill `scores.values` from the cache, and the rest from the executor."""
    found: dict[str, dict[str, float]] = {metric.name: {} for metric in keys}
    lacking: dict[str, list[str]] = {}
    for item in items:
        for metric, key in keys.items():
            if min(item.shape) < metric.min_side:
                continue
            value = cache.get([item], metric, key)
            if value is None:
                lacking.setdefault(item.name, []).append(metric.name)
            else:
                found[metric.name][item.name] = value
    by_name = {item.name: item for item in items}
    progress = _Progress(len(lacking))
    try:
        for result in executor(_batches(items, lacking, batch_size)):
            progress.advance(len(result.names))
            scores.reasons.update(result.failures)
            for row, image in enumerate(result.names):
                new = {
                    metric: (keys[metric], result.values[metric.name][row])
                    for metric in keys
                    if metric.name in result.values
                }
                cache.put([by_name[image]], new)
                scores.computed += len(new)
                for metric, (_, value) in new.items():
                    found[metric.name][image] = value
    finally:  # also after an interruption
        for name, column in found.items():
            _keep_finite(scores, name, column)


class _Progress:
    """Log the progress from time to time."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._said = total, 0, time.monotonic()

    def advance(self, images: int) -> None:
        self._done += images
        if time.monotonic() - self._said > LOG_SECONDS:
            self._said = time.monotonic()
            logger.info("scored %d of %d images", self._done, self._total)


def _keep_finite(scores: Scores, name: str, column: dict[str, float]) -> None:
    scores.values[name] = {image: value for image, value in sorted(column.items()) if math.isfinite(value)}
    for image in sorted(column.keys() - scores.values[name].keys()):
        scores.problems.append(Problem(image, f"{name} is not finite for it (an image without texture?)", name))
        logger.error("%s", scores.problems[-1])


def _score_all(
    scores: Scores,
    items: list[Item],
    metric: Metric,
    key: str,
    cache: ScoreCache,
    device: torch.device,
    folders: Sequence[str | Path],
) -> None:
    """Fill `scores.dataset`."""
    value = cache.get(items, metric, key)
    if value is None:
        try:
            value = folder_metrics.distance(metric, items, device, folders)
        except UserError as error:
            scores.reasons[metric.name] = str(error)
            return
        cache.put(items, {metric: (key, value)})
        scores.computed += 1
    scores.dataset[metric.name] = value


def _batches(items: list[Item], lacking: dict[str, list[str]], batch_size: int) -> Iterator[ImageBatch]:
    """Batches of images of one size that lack the same scores, decoded on demand."""
    groups: dict[tuple[tuple[int, int], tuple[str, ...]], list[Item]] = {}
    for item in items:
        if item.name in lacking:
            groups.setdefault((item.shape, tuple(lacking[item.name])), []).append(item)
    for (_, metrics), members in groups.items():
        for start in range(0, len(members), batch_size):
            yield _batch(members[start : start + batch_size], metrics)


def _batch(items: list[Item], metrics: tuple[str, ...]) -> ImageBatch:
    images = np.stack([item.restored.load() for item in items])
    references = [item.reference.load() for item in items if item.reference is not None]
    names = tuple(item.name for item in items)
    return ImageBatch(names, metrics, images, np.stack(references) if references else None)
