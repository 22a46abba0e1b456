"""Table 3: parameters, multiply-adds and time, as printed and as measured by `benchmarks/model_size.py`.

Each shape is a separate group: figures of SD3-medium's shape and of the tiny preset's are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table, folded, ranked

MODELS = {
    "tsdsr_trained": "TSD-SR, as trained",
    "tsdsr": "TSD-SR, merged",
    "tsdsr_streamlined": "TSD-SR, streamlined",
    "tinysr": "TinySR",
    "restoring_teacher": "TAD-SR's teacher, 15 steps",
}
HERE = "measured here"
ABSENT = "Nothing measured here: keep the last line of benchmarks/model_size.py in reports/model_size.json."
FORMS = (
    "As trained: LoRA beside the weights. Merged: added into them. Streamlined: timestep and prompt folded into the "
    "weights. Measured multiply-adds include attention's two products, which counters with module hooks, such as those "
    "of the printed figures, miss."
)


def load_sizes(path: Path) -> Mapping[str, Any] | None:
    """The saved output of `benchmarks/model_size.py`, or None if there is none.

    Raises:
        UserError: the file has other content; a failed benchmark leaves it empty.
    """
    if not path.is_file():
        return None
    try:
        sizes = files.read_json(path)
    except ValueError:  # no JSON, or no UTF-8
        sizes = None
    if not isinstance(sizes, dict) or "models" not in sizes:
        raise UserError(f"{path}: not the last line of benchmarks/model_size.py; run it again, or delete the file")
    return sizes


def complexity(sizes: Mapping[str, Any] | None, printed: PublishedTable) -> Table:
    """A row per method: printed ones by the hardware of their timing, then ours by shape.

    Args:
        sizes: the JSON object that `benchmarks/model_size.py` prints last, where it was kept: `models` (name ->
            params_m, macs_g, macs_without_attention_g and, where timed, time_s), `timing` (the protocol, or
            `not_timed`: why there is none), and the same of the `tiny` preset's shape.
    """
    columns, rows = list(printed.columns), printed.table_rows()
    notes = list(printed.notes)
    if sizes is None:
        notes.append(ABSENT)
    else:
        rows += _rows(sizes["models"], sizes, sizes.get("timing", {}), "SD3-medium's shape", columns)
        notes += [FORMS, *_without_attention(sizes["models"])]
        tiny = sizes.get("tiny")
        if tiny:
            where = f"the tiny preset's own small shape, on {tiny['timing']['device']}"
            rows += _rows(tiny["models"], sizes, tiny["timing"], where, columns)
    caption = f"{printed.caption} Bold: best, underlined: second best of a group."
    return folded(ranked(Table(printed.name, printed.title, printed.stub, columns, rows, caption, notes)))


def _rows(
    models: Mapping[str, Any],
    sizes: Mapping[str, Any],
    timing: Mapping[str, Any],
    where: str,
    columns: Sequence[Column],
) -> Iterator[Row]:
    details = [(name.replace("_", " "), str(value)) for name, value in timing.items()]
    details += [(name, str(sizes[name])) for name in ("commit",) if name in sizes]
    origin = Provenance("measured", f"{HERE}: benchmarks/model_size.py, {where}", tuple(details))
    untimed = f"not timed: {timing['not_timed']}" if "not_timed" in timing else "not timed"
    for name, entry in models.items():
        values = {"steps": 1, **entry}
        cells = {column.key: _cell(column, values.get(column.key), untimed, origin) for column in columns}
        yield Row(MODELS.get(name, name), cells, f"{where}, {HERE}", origin)


def _cell(column: Column, value: float | None, untimed: str, origin: Provenance) -> Cell:
    if value is None:
        return Cell(reason=untimed, provenance=origin)
    return Cell(value, str(value) if column.key == "steps" else column.show(value), provenance=origin)


def _without_attention(models: Mapping[str, Any]) -> list[str]:
    key = "macs_without_attention_g"
    counts = [f"{MODELS.get(name, name)} {entry[key]:.0f}" for name, entry in models.items() if key in entry]
    return [f"Without them, in G: {'; '.join(counts)}."] if counts else []
