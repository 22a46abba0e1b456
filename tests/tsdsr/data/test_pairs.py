from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsdsr.data.pairs import PairFolder, pair_id, split_pair_id, write_png
from tsdsr.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """data/pairs/train with two crops of one photograph and one of another."""
    folder = tmp_path / "pairs" / "train"
    for name in ("cat-c000", "cat-c001", "dog-c000"):
        write_png(folder / "hq" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
        write_png(folder / "lq" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
        (folder / "captions").mkdir(exist_ok=True)
        (folder / "captions" / f"{name}.txt").write_text(f"caption of {name}\n", encoding="utf-8")
    return folder


def test_names_of_pairs() -> None:
    assert pair_id("my-c001-photo", 12) == "my-c001-photo-c012"
    assert split_pair_id("my-c001-photo-c012") == ("my-c001-photo", 12)
    assert split_pair_id(pair_id("a", 12345)) == ("a", 12345)
    with pytest.raises(ValueError, match="sony_01"):
        split_pair_id("sony_01")


def test_lists_pairs_in_order(root: Path) -> None:
    pairs = PairFolder(root)
    assert pairs.ids == ["cat-c000", "cat-c001", "dog-c000"]
    assert len(pairs) == 3
    assert pairs.hq_path("dog-c000").is_file()
    assert pairs.lq_path("dog-c000").is_file()
    assert pairs.caption("dog-c000") == "caption of dog-c000"


def test_files_of_a_writer_at_work_are_no_pairs(root: Path) -> None:
    (root / "hq" / ".cat-c002-x1y2.png").touch()
    assert len(PairFolder(root)) == 3


def test_missing_halves_are_named(root: Path) -> None:
    (root / "lq" / "cat-c001.png").unlink()
    (root / "hq" / "dog-c000.png").unlink()
    with pytest.raises(UserError, match=r"2 pairs have one half only: lq/cat-c001\.png .*, hq/dog-c000\.png"):
        PairFolder(root)


def test_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hq: no such folder; run the stage prepare-degradations"):
        PairFolder(tmp_path)
    (tmp_path / "hq").mkdir()
    (tmp_path / "lq").mkdir()
    with pytest.raises(UserError, match="no pairs"):
        PairFolder(tmp_path)


def test_corrections_win(root: Path, tmp_path: Path) -> None:
    edits = tmp_path / "captions"
    edits.mkdir()
    (edits / "cat.txt").write_text("a cat\n  on a mat", encoding="utf-8")
    (edits / "cat-c001.txt").write_text("its tail", encoding="utf-8")
    (edits / "dog.txt").write_text("", encoding="utf-8")  # says nothing, so corrects nothing
    pairs = PairFolder(root, edits)
    assert [pairs.caption(name) for name in pairs.ids] == ["a cat on a mat", "its tail", "caption of dog-c000"]


def test_no_folder_of_corrections_is_no_fault(root: Path, tmp_path: Path) -> None:
    assert PairFolder(root, tmp_path / "nowhere").caption("cat-c000") == "caption of cat-c000"


def test_a_correction_of_nothing_is_named(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edits = tmp_path / "captions"
    edits.mkdir()
    for name in ("cta", "cat", "house"):
        (edits / f"{name}.txt").write_text("words", encoding="utf-8")
    other = root.parent / "test"
    for side in ("hq", "lq"):
        write_png(other / side / "house-c000.png", np.zeros((8, 8, 3), np.uint8))
    PairFolder(root, edits)
    assert "no pair and no photograph has the name of cta.txt" in caplog.text
    assert "house" not in caplog.text


def test_png_bytes_are_those_of_the_pixels(tmp_path: Path, texture: np.ndarray) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, texture)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), texture)
