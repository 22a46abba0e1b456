"""The files of a scoring: a CSV of images, and a JSON of means, intervals, reasons and provenance."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tsdsr import machine
from tsdsr.errors import UserError
from tsdsr.files import csv_text, write_json, write_text
from tsdsr.metrics import datasets
from tsdsr.metrics.registry import COLUMNS, METRICS, Metric
from tsdsr.metrics.scoring import Scores
from tsdsr.metrics.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    mean_over_images,
    paired_difference,
    photographs,
)

PACKAGES = ("tsdsr", "pyiqa", "basicsr", "torch", "torchvision", "timm", "numpy", "pillow")


def write(
    scores: Scores,
    out: str | Path,
    *,
    method: str,
    dataset: str,
    device: torch.device,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `out` (CSV) and its JSON; equal scores give equal bytes.

    Args:
        scores: of `tsdsr.metrics.score_folder`.
        out: path of the CSV; the JSON has the same name with the suffix .json.
        method: name of the method.
        dataset: name of the data set.
        device: of the scoring.
        seed: of the bootstrap.
        provenance: further origins of the figures (commit, params hash, run id).

    Returns:
        The content of the JSON.
    """
    summary = summarise(scores, method=method, dataset=dataset, device=device, seed=seed, provenance=provenance)
    write_text(out, to_csv(scores))
    write_json(json_path(out), summary)
    return summary


def json_path(out: str | Path) -> Path:
    """The JSON beside a CSV of scores."""
    out = Path(out)
    if out.suffix == ".json":
        raise UserError(f"{out}: name the CSV; the JSON is written beside it")
    return out.with_suffix(".json")


def check_out(out: str | Path) -> None:
    """Check before the work that `write` can write `out`.

    Raises:
        UserError: `out` is not a name for a CSV, or its folder cannot be created or written.
    """
    out = Path(out)
    if out.is_dir() or json_path(out).is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / 'scores.csv'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None


def to_csv(scores: Scores) -> str:
    """Columns name, psnr, ssim, ...; six decimals; a missing score is an empty cell.

    Scored metrics that the paper does not print follow the paper's columns.
    """
    further = [row.name for row in METRICS.values() if not row.paper and row.name in scores.values]
    columns = [*COLUMNS, *further]
    rows: list[list[str | None]] = [["name", *columns]]
    for name in scores.names:
        cells = (scores.values.get(metric, {}).get(name) for metric in columns)
        rows.append([name, *(None if cell is None else f"{cell:.6f}" for cell in cells)])
    return csv_text(rows)


def read_csv(path: str | Path) -> dict[str, dict[str, float]]:
    """metric -> image -> score, of a CSV that `write` made (or one with the same columns)."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = [name for name in (rows[0] if rows else {}) if name != "name"]
        return {column: {row["name"]: float(row[column]) for row in rows if row[column]} for column in columns}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a CSV of scores (columns name, {', '.join(COLUMNS)}): {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def compare(ours: str | Path, theirs: str | Path, seed: int = 0) -> dict[str, Interval]:
    """Paired differences ours - theirs of two CSVs, for every metric that both have images for.

    Returns:
        metric -> mean difference with its bootstrap interval.

    Raises:
        UserError: a file cannot be read, or the two have no score of the same image in common.
    """
    left, right = read_csv(ours), read_csv(theirs)
    shared = [name for name in left if left[name].keys() & right.get(name, {}).keys()]
    if not shared:
        raise UserError(f"{ours} and {theirs} have no score of an image of the same name in common")
    return {name: paired_difference(left[name], right[name], seed) for name in shared}


def summarise(
    scores: Scores,
    *,
    method: str,
    dataset: str,
    device: torch.device,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of the JSON."""
    return {
        "method": method,
        "dataset": dataset,
        "dataset_label": datasets.label(dataset),
        "departures": datasets.departures(dataset, len(scores.names), scores.sides),
        "images": len(scores.names),
        "photographs": len(set(photographs(scores.names))),
        "partial": scores.partial,
        "problems": [asdict(problem) for problem in scores.problems],
        "interval": {
            "kind": "percentile bootstrap over photographs",
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": seed,
        },
        "metrics": {metric.name: _row(scores, metric, seed) for metric in scores.metrics},
        "provenance": {**environment(device), **(provenance or {})},
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and package versions."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "hardware": gpu or f"{machine.processor()}, {os.cpu_count()} cores",
        "device": device.type,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _row(scores: Scores, metric: Metric, seed: int) -> dict[str, Any]:
    column = scores.values.get(metric.name, {})
    if column:
        interval = mean_over_images(column, seed)
    elif metric.name in scores.dataset:
        images = len(scores.names)
        interval = Interval(scores.dataset[metric.name], None, None, images, len(set(photographs(scores.names))))
    else:
        interval = None
    return {
        "label": metric.label,
        "direction": metric.direction,
        "range": list(metric.range),
        "needs_reference": metric.needs_reference,
        "per_image": metric.per_image,
        "decimals": metric.decimals,
        "mean": None if interval is None else interval.mean,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "images": 0 if interval is None else interval.images,
        "reason": scores.reasons.get(metric.name, None if interval is not None else "no image could be scored"),
        "weights": scores.weights.get(metric.name, {}),
        "protocol": {"backend": f"pyiqa {metric.backend}", **metric.options},
    }
