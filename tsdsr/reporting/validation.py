"""The training's validation set: curves, `reports/validation/<run>.csv`, and the sheet of the last validation,
`.png`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from tsdsr.reporting import sheet
from tsdsr.reporting.curves import Curve
from tsdsr.reporting.gallery import data_uri
from tsdsr.reporting.page import Plot
from tsdsr.reporting.scores import SEED, method_label
from tsdsr.reporting.table import Provenance

PATTERN = "pattern_db"
NARROW = 640  # pixels: sheets up to this width are placed side by side
TITLES = {
    "psnr": "PSNR, dB ↑",
    "niqe": "NIQE ↓",
    PATTERN: "Periodic pattern, dB over the photographs' ↓",
}


def warning_level(scores: Sequence[float], rise: float) -> list[float]:
    """The pattern score at which the training warns: `rise` dB above the photographs, or above the best so far if that
    is lower."""
    lowest = accumulate([0.0, *scores[:-1]], min)
    return [value + rise for value in lowest]


def broken_limits(runs: Sequence[Curve], rise: float) -> list[str]:
    """A sentence with the variants of which a run's pattern score was above the warning level; or none."""
    found: dict[str, list[tuple[str, int, list[float]]]] = {}  # variant -> seed, validations above the level, scores
    for run in runs:
        scores = run.terms.get(PATTERN, ([], []))[1]
        limits = warning_level(scores, rise) if scores else []
        over = sum(score > limit for score, limit in zip(scores, limits, strict=True))
        variant, _, seed = run.run.partition(SEED)
        found.setdefault(variant, []).append((seed, over, list(scores)))
    named = []
    for variant, those in found.items():
        broken = [(seed, scores) for seed, over, scores in those if over]
        if not broken:
            continue
        if len(those) == 1:
            ((seed, over, scores),) = those
            whose = f"{method_label(variant)}, {over} of {len(scores)} validations"
        else:
            seeds = ", ".join(seed for seed, _ in broken)
            whose = f"{method_label(variant)}, {len(broken)} of {len(those)} runs (seeds {seeds})"
        worst, last = max(max(scores) for _, scores in broken), max(scores[-1] for _, scores in broken)
        named.append(f"{whose}, {worst:.1f} dB at most and {last:.1f} dB at the end")
    rule = f"The periodic pattern in the held-out crops exceeded its limit of {rise:g} dB"
    return [f"{rule}: {'; '.join(named)}."] if named else []


def sheets(folder: Path, runs: Sequence[str]) -> list[Plot]:
    """The sheets of the last validation, one per run."""
    paths = [folder / f"{run}.png" for run in runs]
    return [_sheet(path) for path in paths if path.is_file()]


def samples(path: Path, captions: Sequence[str]) -> list[Plot]:
    """Samples of the teacher from noise, one column per caption; none if it was not trained here."""
    if not captions or not path.is_file():
        return []
    origin = Provenance("measured", "sampled by the teacher stage", (("file", f"data/teacher/{path.name}"),))
    told = "; ".join(f"{number} {caption or '(empty)'}" for number, caption in enumerate(captions, 1))
    caption = f"From noise, without guidance (top) and with it (bottom). The captions by column: {told}."
    return [Plot("Samples of the teacher", caption, uri=data_uri(sheet.read(path)), provenance=origin)]


def _sheet(path: Path) -> Plot:
    origin = Provenance("measured", "restored while training", (("file", f"reports/validation/{path.name}"),))
    caption = "The last validation, one column per image: LQ enlarged, restored, HQ, without colour alignment."
    title = f"Held-out crops, {method_label(path.stem)}"
    picture = sheet.read(path)
    return Plot(title, caption, uri=data_uri(picture), provenance=origin, wide=picture.width > NARROW)
