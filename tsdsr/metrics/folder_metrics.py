"""Metrics of a whole folder: FID."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tsdsr.errors import UserError
from tsdsr.metrics import backend
from tsdsr.metrics.images import Item
from tsdsr.metrics.registry import Metric

MIN_IMAGES = 2  # a covariance


def distance(metric: Metric, items: list[Item], device: torch.device, folders: Sequence[str | Path] = ()) -> float:
    """The distance between the folder of restored images and that of references.

    Raises:
        UserError: too few images, weights that cannot be loaded, or features without a finite distance.

    Source: Heusel et al., NeurIPS 2017; resizing as Parmar et al., CVPR 2022 (pyiqa's default).
    """
    if len(items) < MIN_IMAGES:
        raise UserError(f"needs at least {MIN_IMAGES} images, found {len(items)}")
    model = backend.build(metric, device, folders)
    with tempfile.TemporaryDirectory(prefix="tsdsr-fid-") as root, contextlib.redirect_stdout(sys.stderr):
        restored, reference = Path(root, "restored"), Path(root, "reference")
        for folder in (restored, reference):
            folder.mkdir()
        for item in items:
            assert item.reference is not None  # not called without references
            (restored / item.name).symlink_to(item.restored.path.resolve())
            (reference / item.reference.path.name).symlink_to(item.reference.path.resolve())
        try:
            value = float(model(str(restored), str(reference), num_workers=0, verbose=False))
        except (ValueError, TypeError) as error:  # of its matrix square root
            raise UserError(f"{metric.name}: pyiqa cannot compute it: {error}") from error
    if not math.isfinite(value):
        raise UserError(f"{metric.name} is not finite for these {len(items)} images")
    return value
