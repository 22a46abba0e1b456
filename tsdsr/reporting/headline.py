"""The top of the page: the gain over bicubic, and whether the ablation shows a difference."""

from __future__ import annotations

from collections.abc import Sequence

from tsdsr import metrics
from tsdsr.metrics import Interval
from tsdsr.reporting import scores as score_files
from tsdsr.reporting.page import Fact
from tsdsr.reporting.scores import METRIC_COLUMNS, MethodScores
from tsdsr.reporting.table import ARROWS, Column

BASELINE = "bicubic"


def facts(runs: Sequence[MethodScores]) -> list[Fact]:
    """The student's gain over bicubic with its interval, in each metric with scores of both."""
    found = []
    for column, gain in _differences(_variant(runs, "full"), _variant(runs, BASELINE)):
        origin = _variant(runs, "full")[0].provenance
        label = f"{column.label} over bicubic {ARROWS[column.direction]}"
        found.append(Fact(label, _signed(column, gain.mean), _bounds(column, gain), origin))
    return found


def sentences(runs: Sequence[MethodScores]) -> list[str]:
    """Sentences about the gain and the ablation; empty if there is nothing to compare."""
    full = _variant(runs, "full")
    said = []
    gains = _differences(full, _variant(runs, BASELINE))
    if gains:
        told = [_judged(column, gain) for column, gain in gains]
        count = metrics.counted(gains[0][1].images, gains[0][1].photographs)
        said.append(f"Against bicubic, over {count}, the student is {_listed(told)}.")
        if gains[0][1].photographs < metrics.FEWEST:
            said.append(f"With fewer than {metrics.FEWEST} photographs no difference is significant.")
    seeded = [run.variant for run in runs if not run.external and run.method != run.variant]
    variants = [name for name in dict.fromkeys(seeded) if name != "full"]
    if full and variants:
        said.append(_ablation(runs, full, variants))
    return said


def _ablation(runs: Sequence[MethodScores], full: Sequence[MethodScores], variants: Sequence[str]) -> str:
    names = _listed([score_files.label(variant) for variant in variants])
    told, compared = [], []
    for variant in variants:
        for column, gap in _differences(_variant(runs, variant), full):
            compared.append(column.label)
            if gap.excludes_zero:
                gain = _signed(column, gap.mean)
                told.append(f"{score_files.label(variant)} in {column.label} ({gain}, {_bounds(column, gap)})")
    if not compared:
        return f"The ablation ({names}) has no scored image in common with the full student."
    if told:
        return f"The ablation: these variants differ significantly from the full student: {'; '.join(told)}."
    kinds = ", ".join(dict.fromkeys(compared))
    return f"The ablation shows no difference: no variant ({names}) differs significantly from Full in {kinds}."


def _variant(runs: Sequence[MethodScores], variant: str) -> list[MethodScores]:
    return [run for run in runs if run.variant == variant and not run.external]


def _differences(ours: Sequence[MethodScores], theirs: Sequence[MethodScores]) -> list[tuple[Column, Interval]]:
    pairs = [(column, score_files.difference(ours, theirs, column.key)) for column in METRIC_COLUMNS]
    return [(column, gap) for column, gap in pairs if gap is not None]


def _judged(column: Column, gain: Interval) -> str:
    better = (gain.mean > 0) == (column.direction == "up")
    size = f"{column.show(abs(gain.mean))} {'better' if better else 'worse'} in {column.label}"
    return size + ("" if gain.excludes_zero else " (within chance)")


def _bounds(column: Column, gap: Interval) -> str:
    if gap.low is None or gap.high is None:
        return "from one photograph, without an interval"
    return f"95 %: {_signed(column, gap.low)} to {_signed(column, gap.high)}"


def _signed(column: Column, value: float) -> str:
    return f"{value:+.{column.digits}f}".replace("-", "−")


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
