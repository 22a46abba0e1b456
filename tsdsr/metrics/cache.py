"""A cache of scores, keyed by their inputs, so that only new ones are computed.

One small JSON file for each image, image and reference, or folder of them, with one number per way of scoring. An entry
cannot become stale: other bytes, another version or other weights give another key.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tsdsr.files import read_json, sha256_json, write_json
from tsdsr.metrics.images import Item
from tsdsr.metrics.registry import Metric

logger = logging.getLogger(__name__)


def version(metric: Metric, digests: Mapping[str, str], device: torch.device) -> str:
    """A digest of everything except for the images that affects a score."""
    parts = {
        "metric": metric.name,
        "revision": metric.revision,
        "backend": [metric.backend, sorted(metric.options.items())],
        "packages": {name: importlib.metadata.version(name) for name in ("pyiqa", "torch", *metric.packages)},
        "weights": dict(digests),
        "device": device.type,
    }
    return sha256_json(parts)[:32]


class ScoreCache:
    """Scores on disk below `root`; without a root nothing is stored."""

    def __init__(self, root: str | Path | None) -> None:
        self._root = None if root is None else Path(root)
        self._read: dict[Path, dict[str, float]] = {}

    def get(self, items: Sequence[Item], metric: Metric, key: str) -> float | None:
        """The score, if it was computed before; NaN if it was not finite.

        Args:
            items: one image, or all of a folder for a metric that scores folders.
        """
        path = self._path(items, metric)
        value = None if path is None else self._entries(path).get(key)
        return math.nan if value == "nan" else value

    def put(self, items: Sequence[Item], scores: Mapping[Metric, tuple[str, float]]) -> None:
        """Store scores of the same items: metric -> (key, value). If the folder is not writable, nothing is stored."""
        changed = set()
        for metric, (key, value) in scores.items():
            path = self._path(items, metric)
            if path is not None:
                self._entries(path)[key] = value if math.isfinite(value) else "nan"
                changed.add(path)
        try:
            for path in changed:
                write_json(path, self._read[path])
        except OSError as error:
            logger.warning("scores cannot be cached: %s", error)
            self._root = None

    def _entries(self, path: Path) -> dict:
        if path not in self._read:
            try:
                entries = read_json(path)
            except (OSError, ValueError):  # absent or unreadable; or damaged, no JSON or no UTF-8
                entries = {}
            self._read[path] = entries if isinstance(entries, dict) else {}
        return self._read[path]

    def _path(self, items: Sequence[Item], metric: Metric) -> Path | None:
        if self._root is None:
            return None
        digests = [
            (item.restored.digest, item.reference.digest if metric.needs_reference and item.reference else "none")
            for item in items
        ]
        name = sha256_json(digests)
        return self._root / name[:2] / f"{name}.json"
