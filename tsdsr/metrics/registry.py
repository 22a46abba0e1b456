"""The nine metrics of the paper's tables, in its order, then others: one row each. To add a metric, add a row.

Protocol: TSD-SR, arXiv 2411.18263, Sec. 4.1, and its released evaluation script: pyiqa's implementations; PSNR and SSIM
on Y of YCbCr without a border crop; LPIPS with AlexNet; MANIQA trained on PIPAL; FID from folder to folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tsdsr.errors import UserError


@dataclass(frozen=True)
class Metric:
    """The properties and requirements of a metric.

    Attributes:
        name: column name and key in params.
        label: in tables.
        direction: whether higher or lower is better.
        range: rough bounds of its values; None = unbounded.
        needs_reference: full-reference, or not.
        weights: rows of `tsdsr.weights.WEIGHTS` that it needs.
        backend: its name in pyiqa.
        options: arguments of pyiqa's `create_metric`.
        decimals: in the paper's tables.
        min_side: the shortest allowed side of an image, in pixels.
        per_image: False for a metric of whole folders.
        revision: part of the cache's key; raise it when a change here affects scores.
        packages: those besides pyiqa and torch that affect its scores; their versions are part of the key too.
        paper: whether it is a column of the paper's tables; others are scored only if named.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    range: tuple[float | None, float | None]
    needs_reference: bool
    backend: str
    decimals: int
    weights: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    min_side: int = 1
    per_image: bool = True
    revision: int = 1
    packages: tuple[str, ...] = ()
    paper: bool = True

    @property
    def arrow(self) -> str:
        return "↑" if self.direction == "higher" else "↓"


_Y = {"test_y_channel": True, "color_space": "ycbcr"}

_ROWS = (
    Metric("psnr", "PSNR", "higher", (0, None), True, "psnr", 2, options=_Y),
    Metric("ssim", "SSIM", "higher", (0, 1), True, "ssim", 4, options=_Y, min_side=11),  # an 11 x 11 window
    Metric("lpips", "LPIPS", "lower", (0, 1), True, "lpips", 4, ("alexnet", "lpips-alex"), min_side=32),
    Metric("dists", "DISTS", "lower", (0, 1), True, "dists", 4, ("vgg16", "dists"), min_side=32),
    Metric("fid", "FID", "lower", (0, None), True, "fid", 2, ("inception",), per_image=False),
    # One block of 96 x 96; basicsr carries its parameters.
    Metric("niqe", "NIQE", "lower", (0, None), False, "niqe", 4, min_side=96, packages=("basicsr",)),
    Metric("musiq", "MUSIQ", "higher", (0, 100), False, "musiq", 2, ("musiq",), min_side=32),
    Metric(
        "maniqa", "MANIQA", "higher", (0, 1), False, "maniqa-pipal", 4, ("maniqa",), min_side=32, packages=("timm",)
    ),
    Metric("clipiqa", "CLIPIQA", "higher", (0, 1), False, "clipiqa", 4, ("clip-rn50",), min_side=32),
    # Venkatanath et al., NCC 2015: block distortions; without reference, weights or training. Blocks of 16 x 16.
    Metric("piqe", "PIQE", "lower", (0, 100), False, "piqe", 2, min_side=16, paper=False),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}

# The columns that every per-image file has, in order.
COLUMNS: tuple[str, ...] = tuple(row.name for row in _ROWS if row.per_image and row.paper)


def select(names: list[str] | tuple[str, ...] | None) -> list[Metric]:
    """Rows for `names`, in the registry's order; the paper's for None.

    Raises:
        UserError: a name is not a metric.
    """
    if names is None:
        return [metric for metric in METRICS.values() if metric.paper]
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(unknown)}; known: {', '.join(METRICS)}")
    return [metric for metric in METRICS.values() if metric.name in names]
