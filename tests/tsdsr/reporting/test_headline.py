"""What the page says first, in words and figures."""

from __future__ import annotations

from pathlib import Path

from tests.tsdsr.reporting.conftest import write_scores
from tsdsr.reporting import headline, scores

EIGHT = [f"image{index}" for index in range(8)]


def test_a_gain_over_few_photographs_is_not_told_apart_from_chance(workspace: Path) -> None:
    runs = scores.load(workspace / "reports/scores")
    assert [(fact.label, fact.value) for fact in headline.facts(runs)] == [
        ("PSNR over bicubic ↑", "+3.00"),
        ("SSIM over bicubic ↑", "+0.3000"),
    ]
    gain, few, ablation = headline.sentences(runs)
    assert gain == (
        "Against bicubic, over 3 images, the student is 3.00 better in PSNR (within chance) and 0.3000 better in SSIM "
        "(within chance)."
    )
    assert "fewer than 6" in few
    assert ablation.startswith("The ablation shows no difference")


def test_the_ablation_names_what_differs_with_its_interval(tmp_path: Path) -> None:
    for method, niqe in {"full": 5.0, "wo_tsm-seed0": 5.5, "vsd-seed0": 5.0, "bicubic": 7.0}.items():
        write_scores(tmp_path, method, {"niqe": niqe}, EIGHT)
    gain, ablation = headline.sentences(scores.load(tmp_path))
    assert gain == "Against bicubic, over 8 images, the student is 2.0000 better in NIQE."
    assert "w/o TSM in NIQE (+0.5000, 95 %: +0.5000 to +0.5000)" in ablation
    assert "VSD" not in ablation


def test_nothing_is_said_without_anything_to_compare(tmp_path: Path) -> None:
    write_scores(tmp_path, "full", {"psnr": 20.0})
    runs = scores.load(tmp_path)
    assert headline.sentences(runs) == []
    assert headline.facts(runs) == []


def test_a_compressed_student_is_no_variant_of_the_ablation(tmp_path: Path) -> None:
    for method, niqe in {"full": 5.0, "tinysr": 5.5, "bicubic": 7.0}.items():
        write_scores(tmp_path, method, {"niqe": niqe}, EIGHT)
    (gain,) = headline.sentences(scores.load(tmp_path))
    assert gain.startswith("Against bicubic")
