"""Scores of restored images: a registry of metrics, and scoring of folders by those whose weights are available."""

from tsdsr import compat

compat.apply()

from tsdsr.metrics.executor import BatchScores, Executor, ImageBatch, LocalExecutor, choose_device  # noqa: E402
from tsdsr.metrics.registry import COLUMNS, METRICS, Metric, select  # noqa: E402
from tsdsr.metrics.results import check_out, compare, json_path, read_csv, summarise, to_csv, write  # noqa: E402
from tsdsr.metrics.scoring import DEFAULT_CACHE, Scores, score_folder  # noqa: E402
from tsdsr.metrics.statistics import (  # noqa: E402
    FEWEST,
    Interval,
    counted,
    mean_over_images,
    mean_over_seeds,
    paired_over_seeds,
)

__all__ = [
    "COLUMNS",
    "DEFAULT_CACHE",
    "FEWEST",
    "METRICS",
    "BatchScores",
    "Executor",
    "ImageBatch",
    "Interval",
    "LocalExecutor",
    "Metric",
    "Scores",
    "check_out",
    "choose_device",
    "compare",
    "counted",
    "json_path",
    "mean_over_images",
    "mean_over_seeds",
    "paired_over_seeds",
    "read_csv",
    "score_folder",
    "select",
    "summarise",
    "to_csv",
    "write",
]
