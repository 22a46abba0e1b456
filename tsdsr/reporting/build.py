"""The whole report: reads what the stages left on disk, writes tables, pictures and the page."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.reporting import curves, diagnostics, figures, gallery, page, published, sheet, sweep, tables, validation
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.complexity import complexity, load_sizes
from tsdsr.reporting.curves import Curve
from tsdsr.reporting.diagnostics import Diagnosis
from tsdsr.reporting.figures import Drawing
from tsdsr.reporting.page import Section
from tsdsr.reporting.render import RENDERERS
from tsdsr.reporting.scores import MethodScores
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
    base_model: what the student was distilled from.
    ablated: the ablation's runs, `<variant>-seed<n>`; what others left is passed over.
    max_pattern_rise_db: from which rise of the pattern score the training warned (distill.validation).
    term_titles: how curves' columns are called; a term that needs a caveat carries it here.
    caveats: sentences that a reader must not miss.
    """

    sheet_images: int
    page_images: int
    base_model: str
    ablated: Collection[str]
    max_pattern_rise_db: float
    term_titles: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()


@dataclass(frozen=True)
class Inputs:
    """What the report reads."""

    scores: list[MethodScores]
    curves: list[Curve]
    numbers: dict[str, dict[str, str]]
    teacher: Mapping[str, Any]
    diagnoses: list[Diagnosis]
    validation: list[Curve]
    reports: Path
    sizes: Mapping[str, Any] | None
    ids: list[str]
    pairs: Path
    restored: Path

    @classmethod
    def read(cls, root: Path, ablated: Collection[str]) -> Inputs:
        """From the repository's root, as docs/architecture.md lays it out.

        Args:
            ablated: as in `Options`.

        Raises:
            UserError: when the scores or the test pairs are absent.
        """
        pairs = root / "data/pairs/test"
        ids = sorted(path.stem for path in (pairs / "hq").glob("*.png"))
        if not ids:
            raise UserError(f"{pairs}/hq: no test images; run the prepare-degradations stage first")
        scores = score_files.load(root / "reports/scores")
        passed = [run.method for run in scores if score_files.former(run.method, ablated)]
        if passed:
            logger.info("passed over, since ablate.run and ablate.seeds do not name them: %s", ", ".join(passed))
        return cls(
            scores=[run for run in scores if run.method not in passed],
            curves=_named(curves.load(root / "reports/curves"), ablated),
            numbers=_numbers(root / "reports/metrics", ablated),
            teacher=_stage_numbers(root / "reports/metrics/teacher.json"),
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
        What was written: the folders of tables and plots, the sheet, and last the page.
    """
    inputs, out = Inputs.read(root, options.ablated), root / "reports"
    all_tables = make_tables(inputs, options)
    write_tables(out / "tables", all_tables)
    drawn = draw(inputs, options)
    write_plots(out / "plots", chain.from_iterable(drawn.values()))
    write_sheet(out / "before_after.png", inputs, options.sheet_images)
    files.write_text(out / "index.html", page.render(_content(inputs, options, all_tables, sections(inputs, drawn))))
    return [out / "tables", out / "plots", out / "before_after.png", out / "index.html"]


def draw(inputs: Inputs, options: Options) -> dict[str, list[Drawing]]:
    """Every drawing, by the key of the page's section that shows it."""
    return {
        "curves": list(figures.of_runs(inputs.scores, inputs.curves, inputs.teacher, options.term_titles)),
        "directions": list(figures.of_directions(inputs.diagnoses)),
        "validation": list(figures.of_validation(inputs.validation, options.max_pattern_rise_db)),
    }


def sections(inputs: Inputs, drawn: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """The page's sections of plots; those without anything to show are empty."""
    shown = {key: [drawing.plot() for drawing in drawings] for key, drawings in drawn.items()}
    told = [diagnostics.table(inputs.diagnoses)] if inputs.diagnoses else []
    looks = [
        *shown["validation"],
        *validation.sheets(inputs.reports / "validation", [curve.run for curve in inputs.validation]),
    ]
    return [
        Section("curves", "Curves", "Curves", shown["curves"]),
        Section("directions", "The distillation's directions", "Directions", shown["directions"], told),
        Section("validation", "Held-out crops", "Validation", looks),
        sweep.section(inputs.reports / "sweep"),
    ]


def make_tables(inputs: Inputs, options: Options) -> list[Table]:
    """The paper's five tables with our rows, the ablation first."""
    runs = inputs.scores
    return [
        tables.ablation(runs, published.load("table4")),
        tables.comparison(runs, published.load("table1"), "Table 1. One-step methods", default=True),
        tables.comparison(runs, published.load("table2"), "Table 2. Multi-step methods", default=False),
        complexity(inputs.sizes, published.load("table3"), "Table 3. Complexity"),
        tables.comparison(
            runs,
            published.load("table5"),
            "Table 5. The same base model",
            default=False,
            texts={"base": options.base_model},
        ),
    ]


def write_tables(folder: Path, tables_: Sequence[Table]) -> None:
    """Each table in each format."""
    with files.atomic_directory(folder) as aside:
        for table in tables_:
            for suffix, render in RENDERERS.items():
                (aside / f"{table.name}.{suffix}").write_text(render(table), encoding="utf-8")


def write_plots(folder: Path, drawings: Iterable[Drawing]) -> None:
    """Every drawing as PNG and SVG."""
    with files.atomic_directory(folder) as aside:
        for drawing in drawings:
            (aside / f"{drawing.stem}.svg").write_bytes(curves.to_svg(drawing.figure))
            (aside / f"{drawing.stem}.png").write_bytes(curves.to_png(drawing.figure))


def write_sheet(path: Path, inputs: Inputs, count: int) -> None:
    """The before/after sheet: LQ, bicubic, the full student, HQ."""
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
    return {path.stem: _flat(_stage_numbers(path)) for path in paths}


def _stage_numbers(path: Path) -> Mapping[str, Any]:
    """What a stage noted; nothing where it noted nothing.

    Raises:
        UserError: for a file that is damaged, or holds a conflict of two branches.
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return result


def _content(inputs: Inputs, options: Options, all_tables: Sequence[Table], parts: Sequence[Section]) -> page.Content:
    chosen = sheet.pick(inputs.ids, options.page_images)
    count = f"{len(inputs.ids)} test image" + "s" * (len(inputs.ids) != 1)
    shown = f"{len(chosen)} of the {len(inputs.ids)} test images, evenly spaced by name (report.page_images)."
    return page.Content(
        title="One-step super-resolution by target score distillation",
        summary=(
            f"A student distilled into one diffusion step, scored on {count} beside its ablations, bicubic "
            "interpolation and its teacher's own round trip."
        ),
        facts=_facts(inputs.scores),
        caveats=options.caveats,
        measured=all_tables[:1],
        printed=all_tables[1:],
        exhibits=gallery.exhibits(inputs.pairs, inputs.restored, chosen, inputs.scores),
        exhibits_note=shown if len(chosen) < len(inputs.ids) else "",
        sections=parts,
        numbers=inputs.numbers,
    )


def _facts(scores: Sequence[MethodScores]) -> list[page.Fact]:
    """The PSNR of each of our methods, and how far above the teacher's round trip it is: all on one set of images."""
    found = {run.method: run.metrics["psnr"] for run in scores if "psnr" in run.metrics and not run.external}
    floor = found["round_trip"].mean if "round_trip" in found else None
    facts = []
    for method, score in found.items():
        if score.mean is not None:
            lead = "" if floor is None or method == "round_trip" else _lead(score.mean - floor)
            label = f"PSNR, {score_files.method_label(method)}"
            facts.append(page.Fact(label, f"{score.mean:.2f} dB", lead, score.provenance))
    return facts


def _lead(gain: float) -> str:
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} the teacher's round trip"
