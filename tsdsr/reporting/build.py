"""Build the whole report from the stages' outputs: tables, plots, the before/after sheet and the page."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tsdsr import files
from tsdsr.config import flatten
from tsdsr.errors import UserError
from tsdsr.reporting import (
    curves,
    diagnostics,
    figures,
    gallery,
    headline,
    page,
    published,
    shares,
    sheet,
    sweep,
    tables,
    validation,
)
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.complexity import complexity, load_sizes
from tsdsr.reporting.curves import Curve
from tsdsr.reporting.diagnostics import Diagnosis
from tsdsr.reporting.figures import Drawing
from tsdsr.reporting.page import PageSection
from tsdsr.reporting.render import RENDERERS, SOURCES
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.sources import sources
from tsdsr.reporting.table import Table

logger = logging.getLogger(__name__)

Run = TypeVar("Run", Curve, Diagnosis)

SHEET_METHODS = ("bicubic", "full")
SHEET_LABELS = {"full": "Student (one step)"}


@dataclass(frozen=True)
class Options:
    """Args:
    sheet_images: rows of the before/after sheet.
    page_images: test images on the page.
    base_model: the student's teacher.
    paper_version: of `published.VERSIONS`; its tables are written, and shown first on the page.
    ablated: the ablation's runs, `<variant>-seed<n>`; results of others are skipped.
    own_full: the ablation's run of full with the stage distill's seed, `full-seed<n>`.
    max_pattern_rise_db: the rise of the pattern score at which the training warns (distill.validation).
    term_titles: titles of the curves' columns, with a caveat if a term needs one.
    caveats: important sentences for the top of the page.
    """

    sheet_images: int
    page_images: int
    base_model: str
    paper_version: str
    ablated: Collection[str]
    own_full: str
    max_pattern_rise_db: float
    term_titles: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()


@dataclass(frozen=True)
class Inputs:
    """The inputs of the report."""

    scores: list[MethodScores]
    curves: list[Curve]
    numbers: dict[str, dict[str, str]]
    teacher: Mapping[str, Any]
    samples: Path
    diagnoses: list[Diagnosis]
    validation: list[Curve]
    reports: Path
    sizes: Mapping[str, Any] | None
    ids: list[str]
    pairs: Path
    restored: Path

    def compared(self, options: Options) -> list[MethodScores]:
        """The scores for tables: without the stage distill's `full` where the ablation has its own run with that seed,
        which may go on from another start."""
        own = options.own_full in {run.method for run in self.scores}
        return [run for run in self.scores if not (own and run.method == "full")]

    @classmethod
    def read(cls, root: Path, ablated: Collection[str]) -> Inputs:
        """Read from the repository's root, laid out as in docs/architecture.md.

        Args:
            ablated: as in `Options`.

        Raises:
            UserError: the scores or the test pairs are absent.
        """
        pairs = root / "data/pairs/test"
        ids = sorted(path.stem for path in (pairs / "hq").glob("*.png"))
        if not ids:
            raise UserError(f"{pairs}/hq: no test images; run the prepare-degradations stage first")
        scores = score_files.load(root / "reports/scores")
        passed = [run.method for run in scores if score_files.former(run.method, ablated)]
        if passed:
            logger.info("skipped, since ablate.run and ablate.seeds do not name them: %s", ", ".join(passed))
        return cls(
            scores=[run for run in scores if run.method not in passed],
            curves=_named(curves.load(root / "reports/curves"), ablated),
            numbers=_numbers(root / "reports/metrics", ablated),
            teacher=_stage_numbers(root / "reports/metrics/teacher.json"),
            samples=root / "data/teacher/samples.png",
            diagnoses=_named(diagnostics.load(root / "reports/diagnostics"), ablated),
            validation=_named(curves.load(root / "reports/validation"), ablated),
            reports=root / "reports",
            sizes=load_sizes(root / "reports/model_size.json"),
            ids=ids,
            pairs=pairs,
            restored=root / "data/restored",
        )


def build(root: Path, options: Options) -> list[Path]:
    """Write the report under `root/reports`.

    Returns:
        The written files: the folders of tables and plots, the rows' sources, the sheet, and last the page.
    """
    inputs, out = Inputs.read(root, options.ablated), root / "reports"
    ours = tables.measured(inputs.compared(options))
    papers = {version: paper_tables(inputs, options, version) for version in published.VERSIONS}
    write_tables(out / "tables", [ours, *papers[options.paper_version]])
    files.write_json(out / SOURCES, sources(chain([ours], *papers.values())))
    drawn = draw(inputs, options)
    write_plots(out / "plots", chain.from_iterable(drawn.values()))
    write_sheet(out / "before_after.png", inputs, options.sheet_images)
    content = _content(inputs, options, ours, papers, sections(inputs, drawn))
    files.write_text(out / "index.html", page.render(content))
    return [out / "tables", out / SOURCES, out / "plots", out / "before_after.png", out / "index.html"]


def draw(inputs: Inputs, options: Options) -> dict[str, list[Drawing]]:
    """Every drawing, by the key of its section of the page."""
    return {
        "shares": list(figures.of_shares(inputs.curves, options.term_titles)),
        "cost": list(figures.of_costs(inputs.scores, published.load(options.paper_version))),
        "curves": list(figures.of_runs(inputs.scores, inputs.curves, inputs.teacher, options.term_titles)),
        "directions": list(figures.of_directions(inputs.diagnoses)),
        "validation": list(figures.of_validation(inputs.validation, options.max_pattern_rise_db)),
    }


def sections(inputs: Inputs, drawn: Mapping[str, Sequence[Drawing]]) -> list[PageSection]:
    """The page's sections of plots; those without content are empty."""
    shown = {key: [drawing.plot() for drawing in drawings] for key, drawings in drawn.items()}
    told = [diagnostics.table(inputs.diagnoses)] if inputs.diagnoses else []
    looks = [
        *shown["validation"],
        *validation.sheets(inputs.reports / "validation", [curve.run for curve in inputs.validation]),
    ]
    painted = validation.samples(inputs.samples, inputs.teacher.get("samples", []))
    return [
        PageSection("shares", "Each loss term's share of the gradient", "Shares", shown["shares"]),
        PageSection("cost", "Quality against cost", "Cost", shown["cost"], folded=True),
        PageSection("curves", "Curves", "Curves", [*shown["curves"], *painted], folded=True),
        PageSection(
            "directions", "The distillation's directions", "Directions", shown["directions"], told, folded=True
        ),
        PageSection("validation", "Held-out crops", "Validation", looks, folded=True),
        sweep.section(inputs.reports / "sweep"),
    ]


def paper_tables(inputs: Inputs, options: Options, version: str) -> list[Table]:
    """The tables of one version of the paper, with our rows."""
    printed, runs = published.load(version), inputs.compared(options)
    special = {
        "table1": lambda table: tables.comparison(runs, table, default=True),
        "table3": lambda table: complexity(inputs.sizes, table),
        "table4": lambda table: tables.ablation(runs, table),
        "base_models": lambda table: tables.comparison(runs, table, texts={"base": options.base_model}),
    }
    plain = partial(tables.comparison, runs)
    return [special.get(name, plain)(table) for name, table in printed.items()]


def write_tables(folder: Path, tables_: Sequence[Table]) -> None:
    """Write each table in each format."""
    with files.atomic_directory(folder) as aside:
        for table in tables_:
            for suffix, render in RENDERERS.items():
                (aside / f"{table.name}.{suffix}").write_text(render(table), encoding="utf-8")


def write_plots(folder: Path, drawings: Iterable[Drawing]) -> None:
    """Write every drawing as PNG and SVG."""
    with files.atomic_directory(folder) as aside:
        for drawing in drawings:
            (aside / f"{drawing.stem}.svg").write_bytes(drawing.svg)
            (aside / f"{drawing.stem}.png").write_bytes(curves.to_png(drawing.figure))


def write_sheet(path: Path, inputs: Inputs, count: int) -> None:
    """Write the before/after sheet: LQ, bicubic, the full student, HQ."""
    runs = {run.method: run for run in inputs.scores}
    rows = []
    for name in sheet.pick(inputs.ids, count):
        row = [sheet.Tile(sheet.read(inputs.pairs / "lq" / f"{name}.png"), name)]
        for method in SHEET_METHODS:
            line = sheet.scores_line(score_files.of_image(runs[method], name)) if method in runs else ""
            row.append(sheet.Tile(sheet.read(inputs.restored / method / f"{name}.png"), line))
        rows.append([*row, sheet.Tile(sheet.read(inputs.pairs / "hq" / f"{name}.png"))])
    restored = [SHEET_LABELS.get(method, score_files.label(method)) for method in SHEET_METHODS]
    picture = sheet.compose(["LQ input", *restored, "HQ"], rows, reference=len(restored) + 1)
    with files.atomic_file(path) as aside:
        picture.save(aside, optimize=True)


def _named(runs: Sequence[Run], ablated: Collection[str]) -> list[Run]:
    return [run for run in runs if not score_files.former(run.run, ablated)]


def _numbers(folder: Path, ablated: Collection[str]) -> dict[str, dict[str, str]]:
    paths = [path for path in sorted(folder.glob("*.json")) if not score_files.former(path.stem, ablated)]
    numbers = {path.stem: flatten(_stage_numbers(path)) for path in paths}
    return {
        stage: {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        for stage, values in numbers.items()
    }


def _stage_numbers(path: Path) -> Mapping[str, Any]:
    """The metrics file of a stage; empty if there is none.

    Raises:
        UserError: the file is damaged, or contains a merge conflict.
    """
    if not path.is_file():
        return {}
    try:
        values = files.read_json(path)
    except ValueError as error:
        values = error
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: no JSON object of numbers; run the stage that wrote it again ({values})")
    return values


def _content(
    inputs: Inputs,
    options: Options,
    ours: Table,
    papers: Mapping[str, Sequence[Table]],
    parts: Sequence[PageSection],
) -> page.PageContent:
    chosen, compared = sheet.pick(inputs.ids, options.page_images), inputs.compared(options)
    shown = f"{len(chosen)} of the {len(inputs.ids)} test images, evenly spaced by name (report.page_images)."
    broken = validation.broken_limits(inputs.validation, options.max_pattern_rise_db)
    return page.PageContent(
        title="One-step super-resolution by target score distillation",
        summary=" ".join(headline.sentences(compared)),
        facts=headline.facts(compared),
        caveats=[*options.caveats, *shares.weak(inputs.curves, options.term_titles), *broken],
        measured=ours,
        papers=papers,
        version=options.paper_version,
        exhibits=gallery.exhibits(inputs.pairs, inputs.restored, chosen, inputs.scores),
        exhibits_note=shown if len(chosen) < len(inputs.ids) else "",
        sections=parts,
        numbers=inputs.numbers,
    )
