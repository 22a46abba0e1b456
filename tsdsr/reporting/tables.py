"""The report's tables: what was measured here beside what papers print, each in rows or columns of its own.

A group of rows has one origin on one data set, and ranks are given inside a group (or, in the ablation, inside a block
of columns): a measured figure is never ranked against a printed one, nor two figures on different data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from tsdsr import metrics
from tsdsr.metrics import datasets
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.scores import BASELINES, METRIC_COLUMNS, MethodScores
from tsdsr.reporting.table import Cell, Column, Row, Table, ranked

STUDENTS, REFERENCES = "Students", "Baselines"
NO_SUCH_ROW = "the paper has no such row"
NOT_TRAINED = "not trained and scored here (ablate.run)"
RANKS = "Bold: best, underlined: second best"
HERE = "measured here"


def ablation(runs: Sequence[MethodScores], printed: PublishedTable) -> Table:
    """The form of the paper's Table 4: variants down, metrics across; our block of columns, then the paper's, one a
    data set. A dagger marks a variant whose paired difference from the full student is told apart from chance."""
    own = [run for run in runs if not run.external]
    mine = [
        replace(column, key=f"here.{column.key}", block=_block_heading(own), short="here") for column in METRIC_COLUMNS
    ]
    theirs = {
        dataset: [replace(column, key=f"{dataset}.{column.key}", block=dataset) for column in _digits(printed.columns)]
        for dataset in printed.datasets
    }
    full = next((run for run in own if run.method == "full"), None)
    measured = {variant: list(group) for variant, group in groupby(own, key=lambda run: run.variant)}
    rows = []
    for variant in _variants(measured, printed):
        same = measured.get(variant, [])
        cells = {column.key: _against(full, same, column) if same else Cell(reason=NOT_TRAINED) for column in mine}
        for dataset, columns in theirs.items():
            row = printed.row(variant, dataset)
            for column in columns:
                cells[column.key] = row.cell(_metric(column)) if row else Cell(reason=NO_SUCH_ROW)
        origin = REFERENCES if variant in BASELINES else STUDENTS
        rows.append(Row(score_files.label(variant), cells, origin, same[0].provenance if same else None))
    blocks = {dataset: _printed_block(printed, dataset) for dataset in theirs}
    columns = [
        *mine,
        *(
            replace(column, block=blocks[name], short=f"paper, {name}")
            for name, block in theirs.items()
            for column in block
        ),
    ]
    caption = (
        f"{printed.caption} Every block is another data set (and the paper's another teacher): each column is ranked "
        f"by itself, among the students. {RANKS}. †: differs from Full by more than chance (paired bootstrap over "
        "photographs, 95 %)."
    )
    table = Table("table4", f"Table 4. {printed.title}", printed.stub, columns, rows, caption, printed.notes)
    return ranked(table, groups=[STUDENTS])


def _variants(measured: Iterable[str], printed: PublishedTable) -> list[str]:
    """What was measured here and what the paper prints, full first, baselines last."""
    every = dict.fromkeys([*measured, *(row.key for row in printed.rows)])
    return sorted(every, key=lambda variant: (variant in BASELINES, variant != "full"))


def comparison(
    runs: Sequence[MethodScores],
    printed: PublishedTable,
    title: str,
    *,
    default: bool,
    texts: Mapping[str, str] | None = None,
) -> Table:
    """Methods down, metrics across, grouped by data set and origin; our rows follow the printed ones of their data set.

    Args:
        default: whether measured methods that no printed row names belong here.
        texts: what stands in our student's row in columns that are no metrics.
    """
    columns = _digits(printed.columns)
    rows = [
        Row(row.method, {column.key: row.cell(column.key) for column in columns}, row.group, row.provenance)
        for row in printed.rows
    ]
    known = {_plain(row.method) for row in printed.rows}
    for run in runs:
        if run.variant == "full" or _plain(run.method) in known or (default and run.variant not in BASELINES):
            rows.append(_measured_row(run, columns, texts or {}))
    order = {name: index for index, name in enumerate(map(_plain, printed.datasets))}
    rows.sort(key=lambda row: order.get(_plain(row.group.split(",")[0]), len(order)))
    caption = f"{printed.caption} {RANKS} of a group: printed and measured figures are ranked apart."
    return ranked(Table(printed.name, title, printed.stub, columns, rows, caption, printed.notes))


def _measured_row(run: MethodScores, columns: Sequence[Column], texts: Mapping[str, str]) -> Row:
    cells = {}
    for column in columns:
        if column.key in metrics.METRICS:
            cells[column.key] = score_files.pooled_cell(column, [run], column.key)
        else:
            text = "" if run.external else texts.get(column.key, "")
            cells[column.key] = Cell(text=text, reason=None if text else "not known", provenance=run.provenance)
    name = run.method if run.external else f"TSD-SR here: {score_files.method_label(run.method)}"
    return Row(name, cells, f"{dataset_label(run.dataset)}, {HERE}", run.provenance)


def dataset_label(dataset: str) -> str:
    """How a data set is called; `test` is the split of this experiment's own photographs."""
    return "this experiment's test images" if dataset == "test" else datasets.label(dataset)


def _against(full: MethodScores | None, runs: Sequence[MethodScores], column: Column) -> Cell:
    """The cell of a variant, marked where its paired difference from the full student excludes zero."""
    metric = _metric(column)
    cell = score_files.pooled_cell(column, runs, metric)
    run = runs[0]
    if full is None or run is full or len(runs) > 1 or run.variant in BASELINES or cell.empty:
        return cell
    ours, theirs = run.per_image.get(metric, {}), full.per_image.get(metric, {})
    if not ours.keys() & theirs.keys():
        return cell
    gap = metrics.paired_difference(dict(ours), dict(theirs))
    if gap.low is None or gap.high is None:
        return cell
    ends = f"{gap.low:+.4g} to {gap.high:+.4g}"
    detail = f"minus Full: {gap.mean:+.4g}, paired interval {ends}, {metrics.counted(gap.images, gap.photographs)}"
    return replace(cell, mark="†" if gap.excludes_zero else "", detail=detail)


def _digits(columns: Sequence[Column]) -> list[Column]:
    """Printed columns with the decimals of the metrics they are."""
    known = {column.key: column.digits for column in METRIC_COLUMNS}
    return [replace(column, digits=known.get(column.key, column.digits)) for column in columns]


def _metric(column: Column) -> str:
    return column.key.split(".", 1)[1]


def _block_heading(runs: Sequence[MethodScores]) -> str:
    names = ", ".join(dict.fromkeys(dataset_label(run.dataset) for run in runs))
    return f"Measured here, on {names}"


def _printed_block(printed: PublishedTable, dataset: str) -> str:
    return next(row for row in printed.rows if row.dataset == dataset).group


def _plain(name: str) -> str:
    """`OSEDiff-1s`, `osediff` and `OSEDiff` are one method, `DIV2K-Val` and `div2k_val` one data set."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-\d+s$", "", name.lower()))
