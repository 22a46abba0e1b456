"""Scores of restored images: nine metrics, one row each, and folders scored by all that are available."""

from tsdsr import compat

compat.apply()

from tsdsr.metrics.executor import Batch, BatchScores, Executor, LocalExecutor, choose_device  # noqa: E402
from tsdsr.metrics.registry import COLUMNS, METRICS, Metric, select  # noqa: E402
from tsdsr.metrics.results import check_out, compare, environment, json_path, read_csv, summarise, to_csv, write  # noqa: E402
from tsdsr.metrics.scoring import DEFAULT_CACHE, Scores, score_folder  # noqa: E402
from tsdsr.metrics.statistics import FEWEST, Interval, mean_interval, paired_difference  # noqa: E402

__all__ = [
    "COLUMNS",
    "DEFAULT_CACHE",
    "FEWEST",
    "METRICS",
    "Batch",
    "BatchScores",
    "Executor",
    "Interval",
    "LocalExecutor",
    "Metric",
    "Scores",
    "check_out",
    "choose_device",
    "compare",
    "environment",
    "json_path",
    "mean_interval",
    "paired_difference",
    "read_csv",
    "score_folder",
    "select",
    "summarise",
    "to_csv",
    "write",
]
