"""The whole report: reads what the stages left on disk, writes tables, pictures and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.reporting import curves, gallery, page, plots, published, sheet, sweep, tables
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.complexity import complexity
from tsdsr.reporting.render import RENDERERS
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Provenance, Table

SHEET_METHODS = ("bicubic", "full")
SHEET_LABELS = {"full": "Student (one step)"}
# Runs in reports/curves that are no students: file stem -> stem and title of their plot.
OTHER_CURVES = {"teacher": ("teacher_curves", "Training the teacher")}
STUDENT_CURVES = ("loss_curves", "Losses while distilling")


@dataclass(frozen=True)
class Options:
    """Args:
    sheet_images: rows of the before/after sheet.
    page_images: test images on the page.
    base_model: what the student was distilled from.
    term_titles: how curves' columns are called; a term that needs a caveat carries it here.
    caveats: sentences that a reader must not miss.
    """

    sheet_images: int
    page_images: int
    base_model: str
    term_titles: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()


@dataclass(frozen=True)
class Inputs:
    """What the report reads."""

    scores: list[MethodScores]
    curves: list[curves.Curve]
    numbers: dict[str, dict[str, str]]
    teacher: Mapping[str, Any]
    sweep: Path
    sizes: dict[str, Any] | None
    ids: list[str]
    pairs: Path
    restored: Path

    @classmethod
    def read(cls, root: Path) -> Inputs:
        """From the repository's root, as docs/architecture.md lays it out.

        Raises:
            UserError: when the scores or the test pairs are absent.
        """
        pairs = root / "data/pairs/test"
        ids = sorted(path.stem for path in (pairs / "hq").glob("*.png"))
        if not ids:
            raise UserError(f"{pairs}/hq: no test images; run the prepare-degradations stage first")
        return cls(
            scores=score_files.load(root / "reports/scores"),
            curves=curves.load(root / "reports/curves"),
            numbers=_numbers(root / "reports/metrics"),
            teacher=_optional(root / "reports/metrics/teacher.json") or {},
            sweep=root / "reports/sweep",
            sizes=_optional(root / "reports/model_size.json"),
            ids=ids,
            pairs=pairs,
            restored=root / "data/restored",
        )


def build(root: Path, options: Options) -> list[Path]:
    """Write the report under `root/reports`.

    Returns:
        What was written: the folders of tables and plots, the sheet, and last the page.
    """
    inputs, out = Inputs.read(root), root / "reports"
    all_tables = make_tables(inputs, options)
    write_tables(out / "tables", all_tables)
    drawn = write_plots(out / "plots", inputs, options.term_titles)
    write_sheet(out / "before_after.png", inputs, options.sheet_images)
    files.write_text(out / "index.html", page.render(_content(inputs, options, all_tables, drawn)))
    return [out / "tables", out / "plots", out / "before_after.png", out / "index.html"]


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


def write_plots(folder: Path, inputs: Inputs, titles: Mapping[str, str]) -> list[page.Plot]:
    """Every plot as PNG and SVG; the same for the page."""
    plots = []
    with files.atomic_directory(folder) as aside:
        for stem, title, caption, figure, origin in figures(inputs, titles):
            svg = curves.to_svg(figure)
            (aside / f"{stem}.svg").write_bytes(svg)
            (aside / f"{stem}.png").write_bytes(curves.to_png(figure))
            plots.append(page.Plot(title, caption, svg=svg.decode(), provenance=origin))
    return plots


def figures(inputs: Inputs, titles: Mapping[str, str]) -> Iterator[tuple[str, str, str, Figure, Provenance]]:
    """Stem, title, caption, figure and origin: students' losses, scores by image, other runs, the teacher's bins."""
    families = _families(inputs.curves)
    students = families.pop(STUDENT_CURVES, [])
    if students:
        yield _curves(STUDENT_CURVES, students, titles)
    own = [run for run in inputs.scores if not run.external]
    figure = plots.by_image(own)
    if figure is not None:
        caption = "Every test image under every method, hardest for bicubic on the left; hollow: baselines."
        names = ", ".join(f"reports/scores/{run.method}.csv" for run in own)
        yield "scores_by_image", "Scores, image by image", caption, figure, _measured("scored here", names)
    for kind, family in families.items():
        yield _curves(kind, family, titles)
    bins = inputs.teacher.get("flow")
    if bins:
        caption = (
            "Flow-matching loss on test photographs in each range of time. Below the Gaussian, the network knows more "
            "of photographs than the mean and spread of each latent channel."
        )
        origin = _measured("measured by the teacher stage", "reports/metrics/teacher.json")
        yield "teacher_flow", "What the teacher has learnt", caption, plots.flow_bins(bins), origin


def _curves(
    kind: tuple[str, str], family: Sequence[curves.Curve], titles: Mapping[str, str]
) -> tuple[str, str, str, Figure, Provenance]:
    dashes = " A dashed line marks a change of phase." if any(curve.boundaries for curve in family) else ""
    caption = f"One panel a term, one line a run: pale, every logged step; strong, its moving average.{dashes}"
    names = ", ".join(f"reports/curves/{curve.run}.csv" for curve in family)
    return *kind, caption, curves.draw(family, titles), _measured("logged while training", names)


def _families(runs: Sequence[curves.Curve]) -> dict[tuple[str, str], list[curves.Curve]]:
    families: dict[tuple[str, str], list[curves.Curve]] = {}
    for run in runs:
        families.setdefault(OTHER_CURVES.get(run.run, STUDENT_CURVES), []).append(run)
    return families


def _measured(summary: str, names: str) -> Provenance:
    return Provenance("measured", summary, (("files", names),))


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


def _numbers(folder: Path) -> dict[str, dict[str, str]]:
    return {path.stem: _flat(files.read_json(path)) for path in sorted(folder.glob("*.json"))}


def _optional(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return result


def _content(inputs: Inputs, options: Options, all_tables: Sequence[Table], drawn: Sequence[page.Plot]) -> page.Content:
    chosen = sheet.pick(inputs.ids, options.page_images)
    shown = f"{len(chosen)} of the {len(inputs.ids)} test images, evenly spaced by name (report.page_images)."
    return page.Content(
        title="One-step super-resolution by target score distillation",
        summary=(
            f"A student distilled into one diffusion step, scored on {len(inputs.ids)} test images beside its "
            "ablations, bicubic interpolation and its teacher's own round trip."
        ),
        facts=_facts(inputs.scores),
        caveats=options.caveats,
        measured=all_tables[:1],
        printed=all_tables[1:],
        exhibits=gallery.exhibits(inputs.pairs, inputs.restored, chosen, inputs.scores),
        exhibits_note=shown if len(chosen) < len(inputs.ids) else "",
        plots=drawn,
        sweep=sweep.plots(inputs.sweep),
        sweep_table=sweep.table(inputs.sweep),
        numbers=inputs.numbers,
    )


def _facts(scores: Sequence[MethodScores]) -> list[page.Fact]:
    """The PSNR of each method, and how far above the teacher's round trip it is."""
    means = {run.method: run.metrics["psnr"].mean for run in scores if "psnr" in run.metrics}
    floor = means.get("round_trip")
    facts = []
    for method, mean in means.items():
        if mean is not None:
            lead = "" if floor is None or method == "round_trip" else _lead(mean - floor)
            facts.append(page.Fact(f"PSNR, {score_files.method_label(method)}", f"{mean:.2f} dB", lead))
    return facts


def _lead(gain: float) -> str:
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} the teacher's round trip"
