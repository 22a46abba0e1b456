"""Each loss term's share of the gradient at the student's output: the columns `grad_share/<term>` of
`reports/curves/<run>.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from tsdsr.reporting.curves import FAINT, PALETTE, PHASE, SHARE, Curve, legend, small_panels
from tsdsr.reporting.scores import method_label

LEAST = 0.02  # of the gradient; a term below it has hardly any effect


def runs_with_shares(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if _terms(curve)]


def draw(curves: Sequence[Curve], titles: Mapping[str, str]) -> Figure:
    """Stacked shares over the steps, one panel per run."""
    names = list(dict.fromkeys(term for curve in curves for term in _terms(curve)))
    with small_panels(len(curves)) as (figure, panels):
        for panel, curve in zip(panels, curves, strict=True):
            steps = sorted({step for term in _terms(curve) for step in curve.terms[SHARE + term][0]})
            known = {term: dict(zip(*curve.terms.get(SHARE + term, ([], [])), strict=True)) for term in names}
            heights = [[known[term].get(step, 0.0) for step in steps] for term in names]
            panel.stackplot(steps, heights, colors=PALETTE, labels=[titles.get(name, name) for name in names])
            for step in curve.boundaries:
                panel.axvline(step, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)))
            panel.set(title=method_label(curve.run), ylim=(0, 1))
            panel.margins(x=0)
            panel.tick_params(length=0)
        legend(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def weak(curves: Sequence[Curve], titles: Mapping[str, str]) -> list[str]:
    """A sentence with the terms of each run whose mean share over a phase is below `LEAST`; or none."""
    named = []
    for curve in curves:
        means = [
            (titles.get(term, term), phase, sum(shares) / len(shares))
            for term in _terms(curve)
            for phase, shares in _by_phase(curve, term).items()
        ]
        found = [f"{title} {mean:.1%} in phase {phase:.0f}" for title, phase, mean in means if mean < LEAST]
        if found:
            named.append(f"{method_label(curve.run)}: {', '.join(found)}")
    rule = f"Loss terms with hardly any effect, less than {LEAST:.0%} of the gradient over a phase"
    return [f"{rule}. {'; '.join(named)}."] if named else []


def _terms(curve: Curve) -> list[str]:
    return [name.removeprefix(SHARE) for name in curve.terms if name.startswith(SHARE)]


def _by_phase(curve: Curve, term: str) -> dict[float, list[float]]:
    phases = dict(zip(*curve.terms.get(PHASE, ([], [])), strict=True))
    found: dict[float, list[float]] = {}
    for step, share in zip(*curve.terms[SHARE + term], strict=True):
        found.setdefault(phases.get(step, 0.0), []).append(share)
    return found
