"""What an ablation says: each variant's mean over images and seeds with its interval, and its difference to full.

Scores are per image, one file a variant and seed. The unit that is resampled is the photograph with its crops and,
where there are several, the seed: two seeds of one variant differ as much as two variants may, and an interval over
photographs alone hides it.

Legend: S seeds, N images, P photographs.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsdsr import files, metrics, seeding
from tsdsr.errors import UserError
from tsdsr.metrics.statistics import LEVEL, RESAMPLES, Interval

REFERENCE = "full"
_SEEDED = re.compile(r"(?P<variant>[a-z0-9_]+)-seed(?P<seed>\d+)")

# Tables of the paper that an ablation fills, and the rows of each in its order; rows that were not run are left out.
TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ablation_terms": ("Terms of the regulariser (Table 4)", ("wo_tsm", "wo_dasm", "full")),
    "ablation_dasm": (
        "DASM: number of further steps N, step size s",
        ("dasm_n0", "dasm_n2", "dasm_n4", "dasm_n8", "dasm_s25", "dasm_s50", "dasm_s100", "full"),
    ),
    "ablation_regularisers": (
        "Other regularisers in place of TSD with DASM",
        ("vsd", "tsm_alone", "latent_mse_alone", "residual_noise", "full"),
    ),
}

Columns = dict[str, dict[str, float]]  # metric -> image -> score


@dataclass(frozen=True)
class VariantResult:
    """One variant.

    Attributes:
        seeds: those that were scored.
        means: metric -> mean over images and seeds.
        differences: metric -> variant minus full, paired by image (and by seed, where both have it); none for full.
    """

    variant: str
    seeds: tuple[int, ...]
    means: Mapping[str, Interval]
    differences: Mapping[str, Interval]


def read_runs(scores: str | Path, full_seed: int, named: Collection[str]) -> dict[str, dict[int, Columns]]:
    """Variant -> seed -> scores, from a folder of `<variant>-seed<n>.csv`, and `full.csv` with the seed `full_seed`.

    Args:
        named: the runs `<variant>-seed<n>` that are read.

    Raises:
        UserError: when the folder has no scores of full, which all else is compared to.
    """
    runs: dict[str, dict[int, Columns]] = {}
    for path in sorted(Path(scores).glob("*.csv")):
        match = _SEEDED.fullmatch(path.stem)
        if match and path.stem in named:
            runs.setdefault(match["variant"], {})[int(match["seed"])] = metrics.read_csv(path)
    full = Path(scores) / f"{REFERENCE}.csv"
    if full.is_file():
        runs.setdefault(REFERENCE, {})[full_seed] = metrics.read_csv(full)
    if REFERENCE not in runs:
        raise UserError(f"{full}: no such file; run the stages distill and evaluate first")
    return runs


def summarise(runs: Mapping[str, Mapping[int, Columns]]) -> dict[str, VariantResult]:
    """Means with intervals and paired differences to full, for every variant in `runs`."""
    return {variant: _result(variant, runs) for variant in runs}


def mean_over_seeds(values: np.ndarray, names: Sequence[str], seed: int = 0) -> Interval:
    """Mean of [S,N] with its percentile bootstrap interval over photographs and, for S > 1, over seeds.

    Args:
        names: of the N images, which tell the photograph of each.

    Source: the two-way pigeonhole bootstrap, Owen, Annals of Applied Statistics 1(2), 2007.
    """
    seeds, images = values.shape
    groups = metrics.photographs(names)  # [N]
    sizes = np.bincount(groups)  # [P]
    if sizes.size < 2:
        return Interval(float(values.mean()), None, None, images, sizes.size)
    draw = seeding.numpy_generator(seed, "ablation", seeds, sizes.size)
    rows = draw.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds  # [R,S]
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 500):
        part = slice(start, min(start + 500, RESAMPLES))
        drawn = draw.multinomial(sizes.size, np.full(sizes.size, 1 / sizes.size), part.stop - start)  # [r,P]
        columns = drawn[:, groups] / (drawn @ sizes)[:, None]  # [r,N]
        means[part] = np.einsum("rs,sn,rn->r", rows[part], values, columns, optimize=True)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), images, sizes.size)


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


def markdown(title: str, rows: Sequence[VariantResult]) -> str:
    """Variants down, metrics across: mean [95 % interval], and below it the difference to full."""
    shown = _metrics(rows)
    head = ["Variant", "Seeds", *(f"{row.label} {row.arrow}" for row in shown)]
    lines = [f"### {title}", "", _line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [_cell(row, metric.name, metric.decimals) for metric in shown]
        lines.append(_line([row.variant, ", ".join(map(str, row.seeds)), *cells]))
    lines += [
        "",
        "Mean over test images and seeds [95 % bootstrap interval over photographs and seeds]; Δ is the paired "
        f"difference to full; * marks one whose interval leaves out 0, from {metrics.FEWEST} photographs on.",
    ]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[VariantResult]) -> str:
    """One line a variant and metric: mean, interval, difference to full and its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["variant", "seeds", "metric", "mean", "low", "high", "difference", "difference_low", "difference_high"]
    )
    for row in rows:
        for metric, mean in row.means.items():
            difference = row.differences.get(metric)
            values = [mean.mean, mean.low, mean.high]
            values += [difference.mean, difference.low, difference.high] if difference else [None] * 3
            shown = ["" if value is None else f"{value:.6g}" for value in values]
            writer.writerow([row.variant, " ".join(map(str, row.seeds)), metric, *shown])
    return text.getvalue()


def _result(variant: str, runs: Mapping[str, Mapping[int, Columns]]) -> VariantResult:
    mine, full = runs[variant], runs[REFERENCE]
    means = {
        metric: mean_over_seeds(_array(mine, metric, names), names)
        for metric in _columns(mine)
        if (names := _images(mine, metric))
    }
    differences: dict[str, Interval] = {}
    if variant != REFERENCE:
        for metric in means:
            paired, names = _paired(mine, full, metric)
            if names:
                differences[metric] = mean_over_seeds(paired, names)
    return VariantResult(variant, tuple(sorted(mine)), means, differences)


def _columns(runs: Mapping[int, Columns]) -> list[str]:
    """Metrics that every seed has a score of."""
    first, *others = runs.values()
    return [metric for metric in first if first[metric] and all(other.get(metric) for other in others)]


def _array(runs: Mapping[int, Columns], metric: str, images: Sequence[str]) -> np.ndarray:
    """[S,N]."""
    return np.array([[runs[seed][metric][name] for name in images] for seed in sorted(runs)], dtype=np.float64)


def _images(runs: Mapping[int, Columns], metric: str) -> list[str]:
    """Those that every seed has."""
    return sorted(set.intersection(*(set(columns.get(metric, {})) for columns in runs.values())))


def _paired(mine: Mapping[int, Columns], full: Mapping[int, Columns], metric: str) -> tuple[np.ndarray, list[str]]:
    """[S,N] differences and the names of the images: seed by seed where both have seeds in common, else to full's mean
    over its seeds."""
    common = sorted(set(mine) & set(full))
    if common:
        mine, full = ({seed: runs[seed] for seed in common} for runs in (mine, full))
    images = sorted(set(_images(mine, metric)) & set(_images(full, metric)))
    reference = _array(full, metric, images)
    return _array(mine, metric, images) - (reference if common else reference.mean(axis=0, keepdims=True)), images


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
