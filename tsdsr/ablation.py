"""The results of an ablation: each variant's mean over images and seeds with its interval, and its difference to a
reference.

Scores are per image, one file per variant and seed. Intervals are over photographs and seeds together
(`metrics.mean_over_seeds`), since two seeds of one variant may differ as much as two variants. A baseline has one run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tsdsr import files, metrics
from tsdsr.errors import UserError
from tsdsr.metrics.statistics import Interval

REFERENCE = "full"
UNSEEDED = -1  # the seed of a baseline, which has none
_SEEDED = re.compile(r"(?P<variant>[a-z0-9_]+)-seed(?P<seed>\d+)")

# The paper's tables that an ablation fills, and the rows of each in order; rows that were not run are left out.
TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ablation_terms": ("Terms of the regulariser (Table 4)", ("wo_tsm", "wo_dasm", "full")),
    "ablation_dasm": (
        "DASM: number of further steps N, step size s",
        ("dasm_n0", "dasm_n2", "dasm_n4", "dasm_n8", "dasm_s25", "dasm_s50", "dasm_s100", "full"),
    ),
    "ablation_regularisers": (
        "Other regularisers in place of TSD with DASM",
        ("vsd", "tsm_alone", "latent_mse_alone", "residual_velocity", "full"),
    ),
    "ablation_methods": (
        "Methods; full is TSD-SR",
        ("full", "vsd", "tadsr", "tadsr_wo_hfsd", "tadsr_wo_gan", "tadsr_velocity", "restoring_teacher"),
    ),
    "ablation_tadsr": (
        "Terms of TAD-SR",
        ("wo_hfsd", "wo_gan", "hfsd_velocity", "hfsd_all_times", "full"),
    ),
    "ablation_perceptual": (
        "Perceptual term: features of the teacher, of an untrained network, or none (full)",
        ("perceptual_teacher", "perceptual_untrained", "full"),
    ),
}

Columns = dict[str, dict[str, float]]  # metric -> image -> score


@dataclass(frozen=True)
class VariantResult:
    """One variant, or a baseline.

    Attributes:
        seeds: those that were scored; empty for a baseline.
        means: metric -> mean over images and seeds.
        differences: metric -> variant minus the reference, paired by image (and by seed, where both have it); none for
            the reference.
    """

    variant: str
    seeds: tuple[int, ...]
    means: Mapping[str, Interval]
    differences: Mapping[str, Interval]


def read_runs(
    scores: str | Path, full_seed: int, named: Collection[str], baselines: Collection[str] = ()
) -> dict[str, dict[int, Columns]]:
    """Variant or baseline -> seed -> scores, from a folder of `<variant>-seed<n>.csv` and `<baseline>.csv`.

    `full.csv` counts as full with the seed `full_seed`, unless the ablation has that run itself.

    Args:
        named: the runs `<variant>-seed<n>` to read. baselines: those to read if they were scored.

    Raises:
        UserError: the folder has no scores of full, the reference of all comparisons.
    """
    runs: dict[str, dict[int, Columns]] = {}
    for path in sorted(Path(scores).glob("*.csv")):
        match = _SEEDED.fullmatch(path.stem)
        if match and path.stem in named:
            runs.setdefault(match["variant"], {})[int(match["seed"])] = metrics.read_csv(path)
    full = Path(scores) / f"{REFERENCE}.csv"
    if full.is_file():
        runs.setdefault(REFERENCE, {}).setdefault(full_seed, metrics.read_csv(full))
    if REFERENCE not in runs:
        raise UserError(f"{full}: no such file; run the stages distill and evaluate first")
    for name in baselines:
        if (path := Path(scores) / f"{name}.csv").is_file():
            runs[name] = {UNSEEDED: metrics.read_csv(path)}
    return runs


def summarise(runs: Mapping[str, Mapping[int, Columns]], reference: str = REFERENCE) -> dict[str, VariantResult]:
    """Means with intervals and paired differences to `reference`, for each of `runs`."""
    return {variant: _result(variant, runs, reference) for variant in runs}


def write_tables(results: Mapping[str, VariantResult], folder: str | Path) -> list[Path]:
    """Each table of `TABLES` that has a row beside full, as Markdown and CSV.

    Returns:
        the files written.
    """
    written = []
    for name, (title, variants) in TABLES.items():
        rows = [results[variant] for variant in variants if variant in results]
        if len(rows) < 2:
            continue
        for suffix, text in ((".md", markdown(title, rows)), (".csv", to_csv(rows))):
            written.append(Path(folder) / f"{name}{suffix}")
            files.write_text(written[-1], text)
    return written


def markdown(title: str, rows: Sequence[VariantResult], reference: str = REFERENCE) -> str:
    """Variants down, metrics across: mean [95 % interval], and below it the difference to the reference."""
    shown = _metrics(rows)
    head = ["Variant", "Seeds", *(f"{row.label} {row.arrow}" for row in shown)]
    lines = [f"### {title}", "", _line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [_cell(row, metric.name, metric.decimals) for metric in shown]
        lines.append(_line([row.variant, ", ".join(map(str, row.seeds)) or "-", *cells]))
    lines += [
        "",
        "Mean over test images and seeds [95 % bootstrap interval over photographs and seeds]; Δ is the paired "
        f"difference to {reference}; * marks one whose interval leaves out 0, from {metrics.FEWEST} photographs on.",
    ]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[VariantResult]) -> str:
    """One line per variant and metric: mean, interval, difference to the reference and its interval."""
    head = ["variant", "seeds", "metric", "mean", "low", "high", "difference", "difference_low", "difference_high"]
    lines: list[list[object]] = [[*head]]
    for row in rows:
        for metric, mean in row.means.items():
            difference = row.differences.get(metric)
            values = [mean.mean, mean.low, mean.high]
            values += [difference.mean, difference.low, difference.high] if difference else [None] * 3
            shown = [None if value is None else f"{value:.6g}" for value in values]
            lines.append([row.variant, " ".join(map(str, row.seeds)), metric, *shown])
    return files.csv_text(lines)


def _result(variant: str, runs: Mapping[str, Mapping[int, Columns]], reference: str) -> VariantResult:
    mine, others = runs[variant], runs[reference]
    means, differences = {}, {}
    for metric in dict.fromkeys(chain.from_iterable(mine.values())):
        ours, theirs = _column(mine, metric), _column(others, metric)
        with contextlib.suppress(ValueError):  # a seed without a score of this metric
            means[metric] = metrics.mean_over_seeds(ours)
            if variant != reference:
                differences[metric] = metrics.paired_over_seeds(ours, theirs)
    return VariantResult(variant, tuple(seed for seed in sorted(mine) if seed != UNSEEDED), means, differences)


def _column(runs: Mapping[int, Columns], metric: str) -> dict[int, dict[str, float]]:
    return {seed: runs[seed].get(metric, {}) for seed in sorted(runs)}


def _metrics(rows: Sequence[VariantResult]) -> list[metrics.Metric]:
    present = {name for row in rows for name in row.means}
    return [metric for name, metric in metrics.METRICS.items() if name in present]


def _cell(row: VariantResult, metric: str, decimals: int) -> str:
    mean = row.means.get(metric)
    if mean is None:
        return "-"
    text = f"{mean.mean:.{decimals}f}{_interval(mean, decimals)}"
    difference = row.differences.get(metric)
    if difference is None:
        return text
    mark = "*" if difference.excludes_zero else ""
    return f"{text}<br>Δ {difference.mean:+.{decimals}f}{_interval(difference, decimals)}{mark}"


def _interval(value: Interval, decimals: int) -> str:
    return "" if value.low is None else f" [{value.low:.{decimals}f}, {value.high:.{decimals}f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
