"""Save an ablation's result for a commit: its table, each run's means and a plot of the differences.

    python -m pipeline.study NAME [--reference VARIANT] [--params params.yaml]

Reads the scores of the runs that `ablate` names, reports/scores/<variant>-seed<n>.csv, and of the baselines of
`evaluate`, and writes reports/studies/NAME/{table.md,table.csv,runs.csv,differences.png}. runs.csv also has the least
share that each loss had in the gradient (reports/curves) and the last periodic pattern (reports/validation).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.report import SCORES, ablated
from pipeline.stages import stage
from tsdsr import ablation, files
from tsdsr.ablation import REFERENCE, UNSEEDED, Columns
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.reporting import curves, scores
from tsdsr.reporting.curves import SHARE
from tsdsr.reporting.differences import differences
from tsdsr.reporting.validation import PATTERN

logger = logging.getLogger(__name__)
STUDIES, CURVES, VALIDATION = Path("reports/studies"), Path("reports/curves"), Path("reports/validation")
Row = dict[str, str | int | float]
DIVERGED_DB = 3.0  # a run whose mean PSNR is this far below the best run's has diverged


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("name", help="the study's folder in reports/studies")
    parser.add_argument("--reference", default=REFERENCE, help="the variant to compare with (default: full)")
    args = parser.parse_args(arguments)
    params = Params.load(args.params)
    baselines = params.evaluate.baselines
    runs = ablation.read_runs(SCORES, params.seed, ablated(params), baselines)
    ordered = {variant: runs[variant] for variant in (*params.ablate.run, REFERENCE, *baselines) if variant in runs}
    if args.reference not in ordered:
        raise UserError(f"--reference {args.reference}: not among what was scored: {', '.join(ordered)}")
    trainings = {name: training_values(name) for name in ablated(params)}
    trainings = {f"{REFERENCE}-seed{params.seed}": training_values(REFERENCE), **trainings}
    write(ordered, STUDIES / args.name, args.reference, trainings)
    logger.info("the study is in %s", STUDIES / args.name)


def training_values(run: str) -> Row:
    """`least_share/<term>` over the run's curve and its last `pattern_db`; empty for a run without records."""
    terms, looks = (_records(folder, run) for folder in (CURVES, VALIDATION))
    values: Row = {
        f"least_share/{name.removeprefix(SHARE)}": min(shares) for name, (_, shares) in terms.items() if SHARE in name
    }
    return values | ({PATTERN: looks[PATTERN][1][-1]} if PATTERN in looks else {})


def _records(folder: Path, run: str) -> Mapping[str, tuple[list[float], list[float]]]:
    return next((curve.terms for curve in curves.load(folder) if curve.run == run), {})


def write(
    runs: Mapping[str, Mapping[int, Columns]],
    folder: Path,
    reference: str = REFERENCE,
    trainings: Mapping[str, Row] | None = None,
) -> None:
    """The study's four files.

    Args:
        runs: variant -> seed -> metric -> image -> score, in the table's order; `reference` among them.
        trainings: `<variant>-seed<n>` -> further columns of its row in runs.csv.
    """
    results = list(ablation.summarise(runs, reference).values())
    means = run_means({variant: seeds for variant, seeds in runs.items() if UNSEEDED not in seeds})
    means = [row | (trainings or {}).get(f"{row['variant']}-seed{row['seed']}", {}) for row in means]
    lost = [f"{row['variant']}, seed {row['seed']}" for row in means if row["diverged"]]
    note = f"Diverged (mean PSNR {DIVERGED_DB:g} dB below the best run's): {'; '.join(lost) or 'none'}.\n"
    files.write_text(folder / "table.md", ablation.markdown(folder.name.capitalize(), results, reference) + "\n" + note)
    files.write_text(folder / "table.csv", ablation.to_csv(results))
    files.write_text(folder / "runs.csv", _csv(means))
    labelled = {scores.label(row.variant): row.differences for row in results if row.differences}
    with files.atomic_file(folder / "differences.png") as aside:
        differences(labelled, scores.label(reference)).savefig(aside, format="png", dpi=150)


def run_means(runs: Mapping[str, Mapping[int, Columns]]) -> list[Row]:
    """One row per run: variant, seed, whether it diverged, and its mean over images by metric."""
    rows: list[Row] = [
        {"variant": variant, "seed": seed, "diverged": 0, **_means(columns)}
        for variant, seeds in runs.items()
        for seed, columns in sorted(seeds.items())
    ]
    best = max(float(row["psnr"]) for row in rows)
    return [row | {"diverged": int(float(row["psnr"]) < best - DIVERGED_DB)} for row in rows]


def _means(columns: Columns) -> Row:
    """Over the images, of the metrics that have scores."""
    return {name: sum(column.values()) / len(column) for name, column in columns.items() if column}


def _csv(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in columns] for row in rows]
    shown = [[f"{value:.6g}" if isinstance(value, float) else value for value in line] for line in cells]
    return files.csv_text([columns, *shown])


if __name__ == "__main__":
    stage.run(main)
