"""`reports/provenance.json`: the origins of the tables' rows, by the short ids in the tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tsdsr.reporting.table import Row, Table


def sources(tables: Iterable[Table]) -> dict[str, dict[str, Any]]:
    """Id -> summary and details of each distinct origin of a row, and the additional details of single figures (the
    metric's weights and protocol)."""
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        for row in table.rows:
            if row.provenance is not None:
                entry = found.setdefault(row.provenance.id, {"summary": row.provenance.summary})
                entry |= dict(row.provenance.details)
                entry.setdefault("figures", {}).update(_of_figures(row, entry))
    return dict(sorted(found.items()))


def _of_figures(row: Row, known: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Column -> the details of its figure that differ from the row's."""
    further = {}
    for key, cell in row.cells.items():
        if cell.provenance is not None and cell.provenance.kind == "measured":
            details = {name: value for name, value in cell.provenance.details if known.get(name) != value}
            if details:
                further[key.rpartition(".")[2]] = details
    return further
