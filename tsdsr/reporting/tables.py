"""The report's tables, built from the scores measured here and the figures printed in papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from tsdsr.reporting import scores as score_files
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.scores import METRIC_COLUMNS, MethodScores
from tsdsr.reporting.table import Cell, Column, Row, Table, ranked

MEASURED, PRINTED = "here", "paper"
STUDENTS, BASELINES = "Students", "Baselines"
NO_SUCH_ROW = "the paper has no such row"


def ablation(scores: Sequence[MethodScores], printed: PublishedTable) -> Table:
    """The form of the paper's Table 4: variants down, metrics across; our block of columns, then the paper's.

    The two blocks are on different data and different teachers: each column is ranked by itself, so no printed figure
    is ever compared with a measured one, and baselines take no part.
    """
    mine = [replace(column, key=f"{MEASURED}.{column.key}", block="Measured here") for column in METRIC_COLUMNS]
    theirs = [
        replace(column, key=f"{PRINTED}.{column.key}", block="Printed in the paper") for column in printed.columns
    ]
    rows = []
    for variant, group in groupby(scores, key=lambda run: run.variant):
        runs = list(group)
        cells = {column.key: score_files.pooled_cell(column, runs, _metric(column)) for column in mine}
        cells |= {column.key: _printed_cell(column, variant, printed) for column in theirs}
        origin = BASELINES if variant in score_files.BASELINES else STUDENTS
        rows.append(Row(score_files.label(variant), cells, origin, runs[0].provenance))
    datasets = ", ".join(dict.fromkeys(run.dataset for run in scores))
    caption = (
        f"Measured here on: {datasets}. The paper's figures come from another data set and another teacher and stand "
        "in columns of their own; nothing is ranked across the two blocks. Bold: best, underlined: second best of a "
        "column among the students; the baselines are not ranked."
    )
    table = Table("ablation", f"{printed.title} (Table 4)", printed.stub, [*mine, *theirs], rows, caption)
    return ranked(table, groups=[STUDENTS])


def _metric(column: Column) -> str:
    return column.key.split(".", 1)[1]


def _printed_cell(column: Column, variant: str, printed: PublishedTable) -> Cell:
    row = printed.row(variant)
    if row is None:
        return Cell(reason=NO_SUCH_ROW)
    return row.cell(replace(column, key=_metric(column)))
