"""The shares of the loss terms in the gradient: which hardly teach, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsdsr.reporting import curves, shares

CSV = """step,phase,tsd,grad_share/tsd,grad_share/latent_mse,grad_share/lpips
1,0,3,0.01,0.99,
2,0,3,0.02,0.98,
3,1,3,0.30,,0.70
4,1,3,0.40,,0.60
"""


@pytest.fixture
def run(tmp_path: Path) -> curves.Curve:
    (tmp_path / "full.csv").write_text(CSV)
    return curves.load(tmp_path)[0]


def test_a_term_below_two_percent_of_a_phase_is_named(run: curves.Curve) -> None:
    (sentence,) = shares.weak([run], {"tsd": "TSD"})
    assert sentence.startswith("Loss terms with hardly any effect, less than 2%")
    assert sentence.endswith("phase. Full: TSD 1.5% in phase 0.")  # LPIPS has no part in phase 0, and is not named


def test_a_loss_that_sends_no_gradient_at_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "full.csv").write_text("step,grad_share/tsd,grad_share/lpips\n1,0,1\n2,0,1\n")
    (sentence,) = shares.weak(curves.load(tmp_path), {})
    assert "tsd 0.0% in phase 0" in sentence


def test_shares_are_stacked_apart_from_the_other_curves(run: curves.Curve) -> None:
    (panel, *_) = shares.draw([run], {"tsd": "TSD"}).axes
    assert len(panel.collections) == 3
    tops = panel.collections[-1].get_paths()[0].vertices[:, 1]
    assert tops.max() == pytest.approx(1.0)
    titles = [axes.get_title("left") for axes in curves.draw([run], {}).axes]
    assert "tsd" in titles
    assert not any("grad_share" in title for title in titles)
