"""`reports/index.html`: one self-contained file, which opens from disk and can be copied."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tsdsr.reporting import curves
from tsdsr.reporting.gallery import Exhibit
from tsdsr.reporting.table import Cell, Provenance, Row, Table

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A figure of the page: its title, an SVG or an image as a data URI, and its origin.

    Args:
        wide: whether it takes the page's full width.
    """

    title: str
    caption: str
    svg: str = ""
    uri: str = ""
    provenance: Provenance | None = None
    wide: bool = True


@dataclass(frozen=True)
class PageSection:
    """A part of the page with plots and tables of one kind; left out if it has neither.

    Args:
        key: its anchor; title: its heading; short: its name in the navigation.
    folded: whether it is collapsed at first.
    """

    key: str
    title: str
    short: str
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    folded: bool = False

    def __bool__(self) -> bool:
        return bool(self.plots or self.tables)


@dataclass(frozen=True)
class Fact:
    """A headline figure at the top of the page."""

    label: str
    value: str
    detail: str
    provenance: Provenance


@dataclass(frozen=True)
class PageContent:
    """The content of the page, in its order.

    Args:
        papers: the papers' tables by the version of TSD-SR's paper; `version` is shown first.
    """

    title: str
    summary: str
    facts: Sequence[Fact]
    caveats: Sequence[str]
    measured: Table
    papers: Mapping[str, Sequence[Table]]
    version: str
    exhibits: Sequence[Exhibit]
    exhibits_note: str
    sections: Sequence[PageSection] = ()
    numbers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def render(content: PageContent) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    origins = _Origins()
    template = environment.get_template("page.html.jinja")
    return template.render(
        content=content,
        origins_of=origins,
        origins=origins.entries,
        css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        js=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        svg=lambda text: Markup(themed_svg(text)),
    )


class _Origins:
    """The texts shown on hover or click, each distinct one once; elements refer to them by number."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._numbers: dict[tuple[object, ...], int] = {}

    def number(self, table: Table, row: Row, cell: Cell) -> int:
        """The number of a cell's entry: its reason or interval, its note, and its provenance."""
        provenance = cell.provenance or row.provenance
        lines = [text for text in (cell.reason, _interval(cell), cell.detail, cell.note) if text]
        return self._keep(tuple(lines), provenance)

    def of_row(self, row: Row) -> int:
        """The number of a row's entry: its id and its origin."""
        return self._keep((f"Source {row.provenance.id}",) if row.provenance else (), row.provenance)

    def of_plot(self, plot: Plot) -> int:
        return self._keep((plot.caption,), plot.provenance)

    def of_provenance(self, provenance: Provenance) -> int:
        return self._keep((), provenance)

    def _keep(self, lines: tuple[str, ...], provenance: Provenance | None) -> int:
        key = (lines, provenance)
        if key not in self._numbers:
            self._numbers[key] = len(self.entries)
            summary = provenance.summary if provenance else ""
            details = [list(pair) for pair in provenance.details] if provenance else []
            self.entries.append({"lines": list(lines), "summary": summary, "details": details})
        return self._numbers[key]


def _interval(cell: Cell) -> str | None:
    if cell.low is None or cell.high is None:
        return None
    return f"{cell.text}, interval {cell.low:.4g} to {cell.high:.4g} ({cell.ends})"


def themed_svg(text: str) -> str:
    """A matplotlib SVG for inlining in the page: without prolog, with text and lines in the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg([^>]*?) width="[^"]*" height="[^"]*"', r"<svg\1", _sorted_size(text), count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, variable in ((curves.INK, "--ink"), (curves.FAINT, "--line")):
        text = text.replace(color, f"var({variable})")
    return text


def _sorted_size(text: str) -> str:
    """Put height and width beside each other, between which matplotlib writes other attributes."""
    head, _, rest = text.partition(">")
    height = re.search(r'\sheight="[^"]*"', head)
    width = re.search(r'\swidth="[^"]*"', head)
    if height is None or width is None:
        return text
    head = head.replace(height[0], "").replace(width[0], "") + width[0] + height[0]
    return head + ">" + rest
