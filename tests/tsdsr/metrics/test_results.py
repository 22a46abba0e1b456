"""The files that scoring leaves, and the command that leaves them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from tsdsr import files, metrics
from tsdsr.commands import score as command
from tsdsr.errors import UserError

CPU = torch.device("cpu")


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


@pytest.fixture
def scores() -> metrics.Scores:
    """Two images; LPIPS without weights; FID of the folder."""
    return metrics.Scores(
        names=["a.png", "b.png"],
        metrics=metrics.select(["psnr", "lpips", "fid", "niqe"]),
        values={"psnr": {"a.png": 20.0, "b.png": 22.0}, "niqe": {"b.png": 5.25}},
        dataset={"fid": 101.5},
        reasons={"lpips": "weights are absent"},
        weights={"fid": {"inception": "6726825d"}},
    )


def write(scores: metrics.Scores, out: Path) -> dict:
    return metrics.write(scores, out, method="m", dataset="d", device=CPU, provenance={"commit": "0123"})


def test_the_csv_has_every_column_and_empty_cells(scores: metrics.Scores) -> None:
    header, first, second = metrics.to_csv(scores).splitlines()
    assert header == "name,psnr,ssim,lpips,dists,niqe,musiq,maniqa,clipiqa"
    assert first == "a.png,20.000000,,,,,,,"
    assert second == "b.png,22.000000,,,,5.250000,,,"


def test_a_metric_that_the_paper_does_not_print_has_its_column_where_it_was_scored(scores: metrics.Scores) -> None:
    scores.values["piqe"] = {"a.png": 33.5}
    header, first, second = metrics.to_csv(scores).splitlines()
    assert header == "name,psnr,ssim,lpips,dists,niqe,musiq,maniqa,clipiqa,piqe"
    assert (first[-10:], second[-1]) == (",33.500000", ",")


def test_the_json_holds_means_intervals_reasons_and_provenance(scores: metrics.Scores, tmp_path: Path) -> None:
    summary = write(scores, tmp_path / "out.csv")
    assert files.read_json(tmp_path / "out.json") == summary
    rows = summary["metrics"]
    assert (rows["psnr"]["mean"], rows["psnr"]["low"], rows["psnr"]["high"]) == (21.0, 20.0, 22.0)
    assert rows["psnr"]["direction"] == "higher"
    assert (rows["fid"]["mean"], rows["fid"]["low"], rows["fid"]["per_image"]) == (101.5, None, False)
    assert rows["fid"]["weights"] == {"inception": "6726825d"}
    assert (rows["lpips"]["mean"], rows["lpips"]["reason"]) == (None, "weights are absent")
    assert rows["niqe"]["images"] == 1
    assert summary["provenance"]["commit"] == "0123"
    assert {"hardware", "packages", "device"} <= summary["provenance"].keys()


def test_a_departure_from_the_published_test_set_is_noted(scores: metrics.Scores, tmp_path: Path) -> None:
    scores.sides = {512, 500}
    summary = metrics.write(scores, tmp_path / "out.csv", method="m", dataset="drealsr", device=CPU)
    assert summary["dataset_label"] == "DRealSR"
    assert [note.split(";")[0] for note in summary["departures"]] == ["2 images", "sides of 500, 512 px"]
    assert "note: 2 images; the published scores of DRealSR are over 93" in command.describe(summary)
    assert not write(scores, tmp_path / "other.csv")["departures"]


def test_equal_scores_give_equal_bytes(scores: metrics.Scores, tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(scores, tmp_path / f"{name}.csv")
    for suffix in ("csv", "json"):
        assert (tmp_path / f"x.{suffix}").read_bytes() == (tmp_path / f"y.{suffix}").read_bytes()


def test_a_csv_reads_back(scores: metrics.Scores, tmp_path: Path) -> None:
    write(scores, tmp_path / "out.csv")
    columns = metrics.read_csv(tmp_path / "out.csv")
    assert columns["psnr"] == scores.values["psnr"]
    assert columns["lpips"] == {}


def test_methods_are_compared_over_the_images_and_metrics_they_share(scores: metrics.Scores, tmp_path: Path) -> None:
    write(scores, tmp_path / "ours.csv")
    files.write_text(tmp_path / "theirs.csv", "name,psnr,musiq\na.png,19.5,60\nb.png,21.0,61\n")
    differences = metrics.compare(tmp_path / "ours.csv", tmp_path / "theirs.csv")
    assert list(differences) == ["psnr"]
    assert (differences["psnr"].mean, differences["psnr"].images) == (0.75, 2)
    files.write_text(tmp_path / "others.csv", "name,psnr\nc.png,19.5\n")
    with pytest.raises(UserError, match="no score of an image of the same name in common"):
        metrics.compare(tmp_path / "ours.csv", tmp_path / "others.csv")


def test_what_is_no_csv_of_scores_is_named(tmp_path: Path) -> None:
    files.write_text(tmp_path / "x.csv", "image,psnr\na,1\n")
    with pytest.raises(UserError, match=r"x\.csv: not a CSV of scores"):
        metrics.read_csv(tmp_path / "x.csv")
    with pytest.raises(UserError, match="name the CSV"):
        metrics.json_path("scores.json")


def test_the_command_scores_and_compares(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    restored, reference = map(str, folders)
    options = ("--reference", reference, "--metrics", "psnr,niqe,lpips")
    assert run("--restored", reference, *options, "--out", "same.csv") == 0
    assert run("--restored", restored, *options, "--out", "noisy.csv", "--against", "same.csv", "--method", "mine") == 0
    printed = capsys.readouterr().out
    assert "mine on unnamed: 3 images" in printed
    assert "LPIPS            - weights alexnet" in printed
    difference = next(line for line in printed.splitlines() if line.lstrip().startswith("PSNR") and "3 images" in line)
    assert float(difference.split()[1]) < -40
    assert not difference.endswith("*")  # three images tell nothing


def test_a_difference_that_all_of_six_images_show_has_a_star(tmp_path: Path) -> None:
    for name, score in (("ours", 21.5), ("theirs", 20)):
        rows = [f"{image}.png,{score + image}" for image in range(6)]
        files.write_text(tmp_path / f"{name}.csv", "\n".join(["name,psnr", *rows]) + "\n")
    line = command.describe_differences(tmp_path / "ours.csv", tmp_path / "theirs.csv").splitlines()[1]
    assert line.split() == ["PSNR", "+1.5000", "[+1.5000,", "+1.5000]", "6", "images", "*"]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--against", "nowhere.csv", "nowhere.csv cannot be read"),
        ("--against", "a.txt", "not a CSV of scores"),
        ("--out", "scores.json", "name the CSV"),
        ("--weights-dir", "nowhere", "nowhere: no such folder of weights"),
        ("--out", "restored", "is a folder"),
        ("--out", "a.txt/scores.csv", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_the_work(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, option: str, value: str, reason: str
) -> None:
    files.write_text("a.txt", "a\n1\n")
    monkeypatch.setattr(metrics, "score_folder", lambda *_, **__: pytest.fail("scored"))
    with pytest.raises(UserError, match=reason):
        run("--restored", str(folders[0]), "--out", "out.csv", option, value)


def test_a_gpu_that_is_not_there_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device: cuda, and torch finds no GPU here"):
        run("--restored", "x", "--out", "out.csv", "--device", "cuda")


def test_no_score_at_all_is_told_by_the_status(folders: tuple[Path, Path]) -> None:
    assert run("--restored", str(folders[0]), "--metrics", "psnr,lpips", "--out", "out.csv") == 2
    assert "needs a reference" in files.read_json("out.json")["metrics"]["psnr"]["reason"]


def test_partial_results_are_kept_marked_and_told_by_the_status(folders: tuple[Path, Path]) -> None:
    (folders[1] / "b.png").unlink()
    options = ("--restored", str(folders[0]), "--reference", str(folders[1]), "--metrics", "psnr")
    assert run(*options, "--out", "out.csv") == 1
    summary = files.read_json("out.json")
    assert summary["partial"]
    assert summary["problems"] == [{"name": "b.png", "message": "has no reference of the same name", "metric": None}]
    assert summary["metrics"]["psnr"]["images"] == 2
