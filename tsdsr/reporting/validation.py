"""The validation set of the training: `reports/validation/<run>.csv`, curves, and `.png`, the last look's sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from tsdsr.reporting import sheet
from tsdsr.reporting.curves import Curve
from tsdsr.reporting.gallery import data_uri
from tsdsr.reporting.page import Plot
from tsdsr.reporting.scores import method_label
from tsdsr.reporting.table import Provenance

PATTERN = "pattern_db"
NARROW = 640  # pixels: sheets up to this width stand beside each other
TITLES = {
    "psnr": "PSNR, dB ↑",
    "niqe": "NIQE ↓",
    PATTERN: "Periodic pattern, dB over the photographs' ↓",
}


def warning_level(scores: Sequence[float], rise: float) -> list[float]:
    """From which pattern score the training warns at each look: `rise` dB above the photographs, or above the best so
    far where that is lower."""
    lowest = accumulate([0.0, *scores[:-1]], min)
    return [value + rise for value in lowest]


def broken_limits(runs: Sequence[Curve], rise: float) -> Iterator[str]:
    """A sentence for each run whose pattern score was above the level from which the training warns."""
    for run in runs:
        steps, scores = run.terms.get(PATTERN, ([], []))
        limits = warning_level(scores, rise) if scores else []
        over = [(step, score) for step, score, limit in zip(steps, scores, limits, strict=True) if score > limit]
        if over:
            worst = max(over, key=lambda look: look[1])
            yield (
                f"{method_label(run.run)}: the periodic pattern in the held-out crops broke its limit of {rise:g} dB "
                f"at {len(over)} of {len(steps)} looks, from step {over[0][0]:.0f} to {over[-1][0]:.0f}; the most was "
                f"{worst[1]:.1f} dB at step {worst[0]:.0f}, the last look had {scores[-1]:.1f} dB."
            )


def sheets(folder: Path, runs: Sequence[str]) -> list[Plot]:
    """The pictures of the last look at the set, of each of the runs that left one."""
    paths = [folder / f"{run}.png" for run in runs]
    return [_sheet(path) for path in paths if path.is_file()]


def _sheet(path: Path) -> Plot:
    origin = Provenance("measured", "restored while training", (("file", f"reports/validation/{path.name}"),))
    caption = "At the last look, a column an image: LQ enlarged, restored, HQ. The student's own colours, not aligned."
    title = f"Held-out crops, {method_label(path.stem)}"
    picture = sheet.read(path)
    return Plot(title, caption, uri=data_uri(picture), provenance=origin, wide=picture.width > NARROW)
