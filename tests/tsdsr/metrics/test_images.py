"""Every fault of the input is named before any scoring, and costs only the images that have it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tsdsr.errors import UserError
from tsdsr.metrics import METRICS, images

Save = Callable[[str, np.ndarray], Path]
FLAT = np.full((32, 32, 3), 90, dtype=np.uint8)


def faults(restored: Path, reference: Path | None) -> dict[str, str]:
    _, problems = images.collect(restored, reference)
    return {problem.name: problem.message for problem in problems}


def test_pairs_are_matched_by_name_and_sorted(folders: tuple[Path, Path]) -> None:
    items, problems = images.collect(*folders)
    assert [item.name for item in items] == ["a.png", "b.png", "c.png"]
    assert [item.reference.path.name for item in items if item.reference] == ["a.png", "b.png", "c.png"]
    assert items[2].shape == (144, 192)
    assert not problems


def test_another_suffix_is_the_same_image(save: Save, tmp_path: Path) -> None:
    save("x/a.bmp", FLAT)
    save("y/a.png", FLAT)
    items, problems = images.collect(tmp_path / "x", tmp_path / "y")
    assert [item.name for item in items] == ["a.bmp"]
    assert not problems


def test_missing_extra_and_twice_are_named(folders: tuple[Path, Path], save: Save) -> None:
    save("restored/extra.png", FLAT)
    save("reference/lonely.png", FLAT)
    save("restored/a.bmp", FLAT)
    found = faults(*folders)
    assert found.keys() == {"extra.png", "lonely.png", "a.bmp"}
    assert "no reference" in found["extra.png"]
    assert "without a restored image" in found["lonely.png"]
    assert "second restored image" in found["a.bmp"]


def test_sizes_that_differ_are_both_told(folders: tuple[Path, Path], save: Save) -> None:
    save("restored/b.png", FLAT)
    assert faults(*folders) == {"b.png": "is 32x32, its reference 288x192; sizes must be equal"}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_named_though_its_header_is_whole(folders: tuple[Path, Path], suffix: str) -> None:
    restored, reference = folders
    whole = restored / f"b.{suffix}"
    with Image.open(restored / "b.png") as image:
        image.convert("RGB").save(whole)
    if suffix != "png":
        (restored / "b.png").unlink()
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with Image.open(whole) as image:
        assert image.size == (288, 192)
    found = faults(restored, reference)
    assert found.keys() == {whole.name}
    assert "cannot be read as an image" in found[whole.name]


def test_what_is_no_image_or_has_16_bits_is_named(folders: tuple[Path, Path], save: Save) -> None:
    restored, reference = folders
    (restored / "a.png").write_text("a page")
    Image.fromarray(np.zeros((192, 288), dtype=np.uint16)).save(reference / "b.png")
    found = faults(restored, reference)
    assert found.keys() == {"a.png", "b.png"}
    assert "more than 8 bits" in found["b.png"]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_of_16_bits_is_not_cut_to_8_in_silence(save: Save, tmp_path: Path, channels: int, suffix: str) -> None:
    save("x/a.png", FLAT)
    cv2.imwrite(str(tmp_path / f"x/b.{suffix}"), np.full((32, 32, channels), 1000, dtype=np.uint16))
    assert "more than 8 bits" in faults(tmp_path / "x", None)[f"b.{suffix}"]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_tiff_of_16_bits_is_not_cut_to_8_in_silence(tmp_path: Path, planar: str) -> None:
    shape = (32, 32, 3) if planar == "contig" else (3, 32, 32)
    pixels = np.full(shape, 1000, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb", planarconfig=planar)
    assert "more than 8 bits" in faults(tmp_path, None)["b.tif"]


def test_an_accent_is_the_same_in_one_code_point_or_two(save: Save, tmp_path: Path) -> None:
    save("x/caf\u00e9.png", FLAT)
    save("y/cafe\u0301.png", FLAT)
    items, problems = images.collect(tmp_path / "x", tmp_path / "y")
    assert not problems
    assert items[0].reference is not None


def test_what_cannot_be_opened_or_written_down_costs_that_name_alone(folders: tuple[Path, Path]) -> None:
    restored, _ = folders
    (restored / "link.png").symlink_to(restored / "nowhere.png")
    (restored / "folder.png").mkdir()
    (restored / os.fsdecode(b"d\xff.png")).write_bytes((restored / "a.png").read_bytes())
    items, problems = images.collect(restored, None)
    assert [item.name for item in items] == ["a.png", "b.png", "c.png"]
    found = {problem.name: problem.message for problem in problems}
    assert found.keys() == {"link.png", "'d\\udcff.png'"}
    assert "No such file" in found["link.png"]


def test_other_files_are_left_alone(folders: tuple[Path, Path]) -> None:
    (folders[0] / "eval.log").write_text("x")
    (folders[0] / ".hidden.png").write_text("x")
    assert not faults(*folders)


def test_grey_palette_and_alpha_are_read_as_rgb(save: Save, tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA"):
        path = tmp_path / f"x/{mode}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(FLAT)
        (image.quantize(2) if mode == "P" else image.convert(mode)).save(path)
    items, problems = images.collect(tmp_path / "x", None)
    assert not problems
    for item in items:
        np.testing.assert_array_equal(item.restored.load(), FLAT)


def test_an_absent_or_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        images.collect(tmp_path / "nowhere", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        images.collect(tmp_path / "empty", None)


def test_an_image_smaller_than_a_metric_needs_is_named_for_that_metric(save: Save, tmp_path: Path) -> None:
    save("x/a.png", FLAT)
    items, _ = images.collect(tmp_path / "x", None)
    problems = images.too_small(items, list(METRICS.values()))
    assert [(problem.name, problem.metric) for problem in problems] == [("a.png", "niqe")]
    assert "96 px" in problems[0].message


def test_beyond_the_budget_images_are_decoded_again(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = images.collect(*folders)
    monkeypatch.setattr(images, "KEPT_BYTES", 0)
    dropped, _ = images.collect(*folders)
    for one, other in zip(kept, dropped):
        assert one.restored.pixels is not None
        assert other.restored.pixels is None
        np.testing.assert_array_equal(one.restored.load(), other.restored.load())
