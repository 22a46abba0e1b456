"""The toy shows what its header says of the three directions."""

from __future__ import annotations

import runpy
from pathlib import Path

TOY = Path(__file__).parents[1] / "examples/toy_distillation.py"


def test_tsm_finds_the_photographs_vsd_their_distribution_and_tsd_both() -> None:
    toy = runpy.run_path(str(TOY))
    assert len(TOY.read_text(encoding="utf-8").splitlines()) <= 80
    found = {lam: toy["distill"](lam) for lam in (0.0, 0.7, 1.0)}
    for mean, spread, _ in found.values():
        assert abs(mean - toy["MEAN"]) < 0.1
        assert abs(spread - toy["STD"]) < 0.2
    distances = [distance for _, _, distance in found.values()]
    assert distances == sorted(distances)
    assert distances[1] < 0.5 < 1 < distances[2]
