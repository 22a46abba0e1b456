"""Tables as Markdown, LaTeX and CSV. An empty cell refers to its reason; printed and measured figures are separate.

A row ends with the id of its source in `provenance.json`, with run, commit, params, weights and hardware.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from string import ascii_lowercase

from tsdsr import files
from tsdsr.reporting.table import Cell, Column, Row, Table

SOURCES = "provenance.json"  # beside the folder of tables
WIDE = 6  # maximum of columns that fit in one column of a two-column paper
_NUMBER = re.compile(r"^Table \d+\. ")
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",  # after the end of a row, this and the star would be options
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "λ": r"$\lambda$",
    "×": r"$\times$",
    "—": "---",
    "–": "--",
    "±": r"$\pm$",
    "†": r"$\dagger$",
}


def footnotes(table: Table) -> dict[str, str]:
    """Each distinct reason and note of the table's cells, with its letter, in reading order."""
    texts: dict[str, str] = {}
    for row in table.rows:
        for column in table.columns:
            for text in _remarks(row.cells[column.key]):
                texts.setdefault(text, _letter(len(texts)))
    return texts


def _remarks(cell: Cell) -> list[str]:
    return [text for text in (None if cell.quiet else cell.reason, cell.note) if text]


def _letter(index: int) -> str:
    word = ascii_lowercase[index % 26]
    return word if index < 26 else _letter(index // 26 - 1) + word


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table; bold = best, underlined = second best."""
    letters = footnotes(table)
    lines = [f"### {table.title}", ""]
    if table.caption:
        lines += [table.caption, ""]
    headings = [*map(_block_heading, table.columns), "Source"]
    lines.append("| " + " | ".join(map(_markdown_text, [table.stub, *headings])) + " |")
    lines.append("|" + "|".join([":--", *["--:"] * len(headings)]) + "|")
    for group in table.groups:
        if group:
            lines.append("| " + " | ".join([f"**{_markdown_text(group)}**", *[""] * len(headings)]) + " |")
        for row in table.rows_of(group):
            cells = [_markdown_cell(row.cells[column.key], letters) for column in table.columns]
            source = f"[{row.provenance.id}](../{SOURCES})" if row.provenance else ""
            lines.append("| " + " | ".join([_markdown_text(row.label), *cells, source]) + " |")
    notes = [*table.notes, *(f"<sup>{letter}</sup> {text}" for text, letter in letters.items())]
    lines += ["", *[f"- {note}" for note in notes]] if notes else []
    return "\n".join(lines) + "\n"


def _block_heading(column: Column) -> str:
    block = column.short or column.block
    return f"{block}: {column.heading}" if block else column.heading


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_cell(cell: Cell, letters: Mapping[str, str]) -> str:
    text = _markdown_text(cell.text) or "—"
    if cell.rank == "best":
        text = f"**{text}**"
    elif cell.rank == "second":
        text = f"<u>{text}</u>"
    text += cell.mark
    marks = ",".join(letters[remark] for remark in _remarks(cell))
    return f"{text} <sup>{marks}</sup>" if marks else text


def to_latex(table: Table) -> str:
    """A booktabs table as wide as its text; bold = best, underlined = second best. LaTeX numbers it itself."""
    letters = footnotes(table)
    width = len(table.columns) + 1
    head = " & ".join(map(_tex, [table.stub, *[column.heading for column in table.columns]])) + r" \\"
    caption = _tex(f"{_NUMBER.sub('', table.title)}. {table.caption}".strip())
    environment = "table*" if len(table.columns) > WIDE else "table"
    lines = [r"% \usepackage{booktabs,graphicx}", rf"\begin{{{environment}}}", r"\centering", rf"\caption{{{caption}}}"]
    lines += [rf"\label{{tab:{table.name}}}", r"\resizebox{\linewidth}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    if any(heading for heading, _ in table.blocks):
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{_tex(heading)}}}" for heading, count in table.blocks]
        lines.append(" & ".join(["", *spans]) + r" \\")
    lines += [head, r"\midrule"]
    for index, group in enumerate(table.groups):
        if group:
            lines += [r"\midrule"] if index else []
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(group)}}}}} \\")
        lines += [_latex_row(row, table, letters) for row in table.rows_of(group)]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    for text, letter in letters.items():
        lines.append(rf"\par\footnotesize$^{{{letter}}}$ {_tex(text)}")
    lines += [rf"\par\footnotesize {_tex(note)}" for note in table.notes]
    return "\n".join([*lines, rf"\end{{{environment}}}"]) + "\n"


def _latex_row(row: Row, table: Table, letters: Mapping[str, str]) -> str:
    cells = [_latex_cell(row.cells[column.key], letters) for column in table.columns]
    source = f" % {row.provenance.id} in {SOURCES}" if row.provenance else ""
    return " & ".join([_tex(row.label), *cells]) + r" \\" + source


def _latex_cell(cell: Cell, letters: Mapping[str, str]) -> str:
    text = _tex(cell.text) or "---"
    if cell.rank is not None:
        text = rf"\textbf{{{text}}}" if cell.rank == "best" else rf"\underline{{{text}}}"
    text += _tex(cell.mark)
    marks = ",".join(letters[remark] for remark in _remarks(cell))
    return f"{text}$^{{{marks}}}$" if marks else text


def _tex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def to_csv(table: Table) -> str:
    """One line per row: label, group, each column's figure (and the ends of its interval, if any row has one), reasons
    for empty cells, notes, the id of its source."""
    with_interval = {
        column.key for column in table.columns if any(row.cells[column.key].low is not None for row in table.rows)
    }
    header = ["row", "group"]
    for column in table.columns:
        header += [column.key, *([f"{column.key}_low", f"{column.key}_high"] if column.key in with_interval else [])]
    lines = [[*header, "empty_because", "notes", "source"]]
    for row in table.rows:
        values: list[str] = [row.label, row.group]
        for column in table.columns:
            cell = row.cells[column.key]
            values.append(cell.text)
            if column.key in with_interval:
                values += ["" if end is None else column.show(end) for end in (cell.low, cell.high)]
        why = "; ".join(f"{key}: {cell.reason}" for key, cell in row.cells.items() if cell.reason)
        notes = "; ".join(f"{key}: {cell.note}" for key, cell in row.cells.items() if cell.note)
        lines.append([*values, why, notes, row.provenance.id if row.provenance else ""])
    return files.csv_text(lines)


RENDERERS: Mapping[str, Callable[[Table], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
