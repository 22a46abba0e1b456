"""The report's tables: measured and printed figures, in separate rows or columns.

A group of rows has one origin and one data set, and ranks are within a group (or, in the ablation, within a column of
one block): a measured figure is never ranked against a printed one, nor figures on different data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tsdsr import metrics
from tsdsr.metrics import datasets
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.scores import BASELINES, METRIC_COLUMNS, MethodScores
from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table, folded, ranked

NOT_TRAINED = "not trained and scored here (ablate.run)"
NO_SUCH_ROW = Cell(reason="the paper has no such row", quiet=True)
RANKS = "Bold: best, underlined: second best"
DAGGER = "†: differs significantly from Full (paired bootstrap over photographs and seeds, 95 %)."
HERE = "measured here"
EVERYWHERE = ("bicubic", "real_esrgan")  # baselines in every table of methods


def measured(runs: Sequence[MethodScores]) -> Table:
    """One row per method scored here, one group per data set, ranked together; the columns are the chosen metrics."""
    columns = [column for column in METRIC_COLUMNS if any(column.key in run.metrics for run in runs)]
    rows = []
    for (dataset, _), same in _by_variant(runs).items():
        full = [run for run in runs if run.variant == "full" and run.dataset == dataset]
        cells = {column.key: _against(full, same, column, column.key) for column in columns}
        rows.append(Row(_name(same[0]), cells, _capital(dataset_label(dataset)), _origin(same)))
    caption = f"{RANKS} on a data set. {DAGGER}"
    return folded(ranked(Table("measured", "Measured here", "Method", columns, rows, caption)))


def ablation(runs: Sequence[MethodScores], printed: PublishedTable) -> Table:
    """The paper's Table 4: one row per variant; our block of columns, then the paper's, one per data set."""
    own = [run for run in runs if not run.external]
    heading = f"Measured here, on {', '.join(dict.fromkeys(dataset_label(run.dataset) for run in own))}"
    mine = [replace(column, key=f"here.{column.key}", block=heading, short="here") for column in printed.columns]
    columns, rows = list(mine), []
    for dataset in printed.datasets:
        group = next(row.group for row in printed.rows if row.dataset == dataset)
        for column in printed.columns:
            columns.append(replace(column, key=f"{dataset}.{column.key}", block=group, short=f"paper, {dataset}"))
    by_label = {score_files.label(variant): same for (_, variant), same in _by_variant(own).items()}
    for label in dict.fromkeys([*by_label, *(row.method for row in printed.rows)]):
        same = by_label.get(label, [])
        cells = {}
        for column in columns:
            dataset, _, metric = column.key.rpartition(".")
            row = printed.row(label, dataset)
            if dataset != "here":
                cells[column.key] = row.cell(metric) if row else NO_SUCH_ROW
            else:
                cells[column.key] = _against(by_label.get("Full", []), same, column, metric)
        rows.append(Row(label, cells, "", _origin(same)))
    rows.sort(key=lambda row: (row.label in BASELINES.values(), row.label != "Full"))
    caption = (
        f"{printed.caption} Every block has another data set (and the paper's another teacher), and each column is "
        f"ranked separately. {RANKS}. {DAGGER}"
    )
    return folded(ranked(Table(printed.name, printed.title, printed.stub, columns, rows, caption, printed.notes)))


def comparison(
    runs: Sequence[MethodScores],
    printed: PublishedTable,
    *,
    default: bool = False,
    texts: Mapping[str, str] | None = None,
) -> Table:
    """One row per method, one column per metric, grouped by data set and origin; our rows follow the printed ones.

    Args:
        default: whether to include measured methods that no printed row names.
        texts: our student's values of columns that are not metrics.
    """
    rows = printed.table_rows()
    named = {_plain(row.method) for row in printed.rows} | {_plain(BASELINES[name]) for name in EVERYWHERE}
    for (_, variant), same in _by_variant(runs).items():
        belongs = variant == "full" or _plain(score_files.label(variant)) in named
        if belongs or (default and variant not in BASELINES):
            rows.append(_measured_row(same, printed.columns, texts or {}))
    order = {name: index for index, name in enumerate(map(_plain, printed.datasets))}
    rows.sort(key=lambda row: order.get(_plain(row.group.split(",")[0]), len(order)))
    caption = f"{printed.caption} {RANKS} of a group: printed and measured figures are ranked apart."
    columns, notes = printed.columns, printed.notes
    return folded(ranked(Table(printed.name, printed.title, printed.stub, columns, rows, caption, notes)))


def _measured_row(runs: Sequence[MethodScores], columns: Sequence[Column], texts: Mapping[str, str]) -> Row:
    cells = {}
    for column in columns:
        if column.key in metrics.METRICS:
            cells[column.key] = score_files.pooled_cell(column, runs, column.key)
        else:
            text = "" if runs[0].external or runs[0].method in BASELINES else texts.get(column.key, "")
            cells[column.key] = Cell(text=text, reason=None if text else "not known")
    name = _name(runs[0])
    name = name if runs[0].external or runs[0].method in BASELINES else f"Ours: {name}"
    return Row(name, cells, f"{dataset_label(runs[0].dataset)}, {HERE}", _origin(runs))


def dataset_label(dataset: str) -> str:
    """The label of a data set; `test` is the split of this experiment's own photographs."""
    return "this experiment's test images" if dataset == "test" else datasets.label(dataset)


def _by_variant(runs: Iterable[MethodScores]) -> dict[tuple[str, str], list[MethodScores]]:
    """(data set, variant) -> its runs, one per seed."""
    groups: dict[tuple[str, str], list[MethodScores]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.variant), []).append(run)
    return groups


def _against(full: Sequence[MethodScores], runs: Sequence[MethodScores], column: Column, metric: str) -> Cell:
    """The cell of a variant, marked if the interval of its paired difference from the full student excludes zero."""
    if not runs:
        return Cell(reason=NOT_TRAINED)
    cell = score_files.pooled_cell(column, runs, metric)
    if not full or runs[0].variant == "full" or cell.empty:
        return cell
    gap = score_files.difference(runs, full, metric)
    if gap is None or gap.low is None or gap.high is None:
        return cell
    ends = f"{gap.low:+.4g} to {gap.high:+.4g}"
    detail = f"minus Full: {gap.mean:+.4g}, paired interval {ends}, {metrics.counted(gap.images, gap.photographs)}"
    return replace(cell, mark="†" if gap.excludes_zero else "", detail=detail)


def _name(run: MethodScores) -> str:
    return run.method if run.external else score_files.label(run.variant)


def _origin(runs: Sequence[MethodScores]) -> Provenance | None:
    return score_files.pooled_origin([run.provenance for run in runs]) if runs else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(name: str) -> str:
    """Normalise a name: `OSEDiff-1s`, `osediff` and `OSEDiff` are one method, `DIV2K-Val` and `div2k_val` one data
    set."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-\d+s$", "", name.lower()))
