"""The report's drawings, with title, caption and origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from matplotlib.figure import Figure

from tsdsr.reporting import cost, curves, diagnostics, plots, shares, validation
from tsdsr.reporting.diagnostics import Diagnosis
from tsdsr.reporting.page import Plot
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Provenance

# Runs in reports/curves that are not students: file stem -> stem and title of their plot.
OTHER_CURVES = {"teacher": ("teacher_curves", "Training the teacher")}
STUDENT_CURVES = ("loss_curves", "Losses while distilling")


@dataclass(frozen=True)
class Drawing:
    """A figure, with the name of its files below `reports/plots`."""

    stem: str
    title: str
    caption: str
    figure: Figure
    provenance: Provenance

    @cached_property
    def svg(self) -> bytes:
        return curves.to_svg(self.figure)

    def plot(self) -> Plot:
        """The same for the page."""
        return Plot(self.title, self.caption, svg=self.svg.decode(), provenance=self.provenance)


def of_runs(
    scores: Sequence[MethodScores],
    logged: Sequence[curves.Curve],
    teacher: Mapping[str, Any],
    titles: Mapping[str, str],
) -> Iterator[Drawing]:
    """Students' losses, scores by image, other runs' losses, the teacher's bins."""
    families = _families(logged)
    students = families.pop(STUDENT_CURVES, [])
    if students:
        yield _losses(STUDENT_CURVES, students, titles)
    own = [run for run in scores if not run.external]
    figure = plots.by_image(own)
    if figure is not None:
        caption = "Every test image with every method, hardest for bicubic on the left; hollow: baselines."
        origin = _measured("scored here", [f"scores/{run.method}" for run in own])
        yield Drawing("scores_by_image", "Scores, image by image", caption, figure, origin)
    for kind, family in families.items():
        yield _losses(kind, family, titles)
    bins = teacher.get("flow")
    if bins:
        caption = (
            "Flow-matching loss on test photographs in each range of time. A loss below the Gaussian's shows that "
            "the network has learnt more than the mean and variance of each latent channel."
        )
        origin = Provenance("measured", "measured by the teacher stage", (("files", "reports/metrics/teacher.json"),))
        yield Drawing("teacher_flow", "What the teacher has learnt", caption, plots.flow_bins(bins), origin)


def of_shares(logged: Sequence[curves.Curve], titles: Mapping[str, str]) -> Iterator[Drawing]:
    """The share of each loss term in the gradient."""
    runs = shares.runs_with_shares(logged)
    if runs:
        caption = (
            "The norm of each term's gradient at the student's output, over the sum of these norms. A dashed line is "
            f"a change of phase; a term below {shares.LEAST:.0%} of a phase is named at the top of the page."
        )
        origin = _measured("logged while training", [f"curves/{run.run}" for run in runs])
        yield Drawing("gradient_shares", "Shares of the gradient", caption, shares.draw(runs, titles), origin)


def of_costs(scores: Sequence[MethodScores], printed: Mapping[str, PublishedTable]) -> Iterator[Drawing]:
    """Quality against cost, of the paper's methods and of those scored here."""
    rows = [*cost.printed(printed, "niqe"), *cost.measured(scores, "niqe"), *cost.measured(scores, "psnr")]
    caption = (
        f"A row is one origin; printed scores are those on {cost.PRINTED_ON}. Measured here: multiply-adds and "
        "parameters of the first test picture, and the median time of the others, while the stage ran."
    )
    origin = _measured(
        "printed in the papers' tables, or measured by the stage", [f"scores/{run.method}" for run in scores]
    )
    yield Drawing("quality_cost", "Quality against cost", caption, cost.draw(rows), origin)


def of_directions(runs: Sequence[Diagnosis]) -> Iterator[Drawing]:
    """The paper's Figs. 3 and 5, measured on our runs."""
    if not runs:
        return
    origin = _measured("noted while training", [f"diagnostics/{run.run}" for run in runs])
    caption = (
        "The cosine between the teacher's direction (guidance included) and the true one, the straight line to the "
        "photograph's latent: at the photograph's own noised latent z, and at the student's, ẑ. If ẑ is lower than "
        "z, the teacher's directions are worse on the student's output. Diamonds: the paper's, t = 100, SD3 (Fig. 3)."
    )
    yield Drawing(
        "directions",
        "Does the teacher's direction point to the photograph?",
        caption,
        diagnostics.directions(runs),
        origin,
    )
    caption = (
        "Root mean square of the residuals of Eq. (3) and Eq. (4), before weighting: the teacher minus the fake score, "
        "and the teacher on ẑ minus the teacher on z. The paper finds VSD's error larger at low noise (Fig. 5)."
    )
    yield Drawing("vsd_error", "Residuals by noise level", caption, diagnostics.errors(runs), origin)


def of_validation(runs: Sequence[curves.Curve], max_pattern_rise: float) -> Iterator[Drawing]:
    """Scores of the held-out crops while training, with the level above which the training warns of a pattern."""
    if not runs:
        return
    limit = partial(validation.warning_level, rise=max_pattern_rise)
    figure = curves.draw(runs, validation.TITLES, {validation.PATTERN: limit})
    caption = (
        "Crops that are held out of the training, restored every so many steps. The pattern score is the energy at the "
        "transformer's patch frequency over its neighbours'; above the dotted line the training warns of a grid."
    )
    origin = _measured("scored while training", [f"validation/{run.run}" for run in runs])
    yield Drawing("validation_curves", "Held-out crops while training", caption, figure, origin)


def _losses(kind: tuple[str, str], family: Sequence[curves.Curve], titles: Mapping[str, str]) -> Drawing:
    dashes = " A dashed line marks a change of phase." if any(curve.boundaries for curve in family) else ""
    caption = (
        "One panel a term, one line a run: pale, every logged step; strong, its moving average. Curves that nearly "
        f"coincide are drawn as differences.{dashes}"
    )
    origin = _measured("logged while training", [f"curves/{curve.run}" for curve in family])
    return Drawing(*kind, caption, curves.draw(family, titles), origin)


def _families(runs: Sequence[curves.Curve]) -> dict[tuple[str, str], list[curves.Curve]]:
    families: dict[tuple[str, str], list[curves.Curve]] = {}
    for run in runs:
        families.setdefault(OTHER_CURVES.get(run.run, STUDENT_CURVES), []).append(run)
    return families


def _measured(summary: str, names: Sequence[str]) -> Provenance:
    return Provenance("measured", summary, (("files", ", ".join(f"reports/{name}.csv" for name in names)),))
