from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsdsr.config import Params
from tsdsr.data.builders import build
from tsdsr.data.ready_made import SIDES, ready_made_tasks
from tsdsr.errors import UserError


def save(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(width)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(("hq", "lq"), SIDES)
def test_pairs_are_joined_by_stem(tmp_path: Path, hq: str, lq: str) -> None:
    for name in ("b", "a"):
        save(tmp_path / hq / f"{name}.png", 32, 16)
        save(tmp_path / lq / f"{name}.jpg", 8, 4)
    tasks = ready_made_tasks(str(tmp_path), 4)
    assert [(task.ref.id, task.split) for task in tasks] == [("a", "test"), ("b", "test")]
    assert [task.lq for task in tasks] == [tmp_path / lq / "a.jpg", tmp_path / lq / "b.jpg"]


def test_every_fault_is_listed(tmp_path: Path) -> None:
    save(tmp_path / "hq" / "fine.png", 32, 16)
    save(tmp_path / "lq" / "fine.png", 8, 4)
    save(tmp_path / "hq" / "alone.png", 32, 16)
    save(tmp_path / "lq" / "single.png", 8, 4)
    save(tmp_path / "hq" / "wrong.png", 33, 16)
    save(tmp_path / "lq" / "wrong.png", 8, 4)
    save(tmp_path / "hq" / "empty.png", 32, 16)
    (tmp_path / "lq" / "empty.png").touch()
    with pytest.raises(UserError) as caught:
        ready_made_tasks(str(tmp_path), 4)
    message = str(caught.value)
    assert "4 faults" in message
    assert "alone.png has no counterpart in lq/" in message
    assert "single.png has no counterpart in hq/" in message
    assert "wrong.png is 33x16, its LQ side 8x4: not x4" in message
    assert "lq/empty.png cannot be read" in message
    assert "fine" not in message


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    save(tmp_path / "hq" / "a.png", 32, 16)
    save(tmp_path / "hq" / "a.bmp", 32, 16)
    save(tmp_path / "lq" / "a.png", 8, 4)
    with pytest.raises(UserError, match=r"both a\.bmp and a\.png|both a\.png and a\.bmp"):
        ready_made_tasks(str(tmp_path), 4)


def test_folders_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "sharp").mkdir()
    with pytest.raises(UserError, match=r"known names: hq/ and lq/"):
        ready_made_tasks(str(tmp_path), 4)


def test_pixels_are_taken_as_they_are(tmp_path: Path, small: Params) -> None:
    save(tmp_path / "hq" / "a.png", 32, 16)
    save(tmp_path / "lq" / "a.png", 8, 4)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "a.txt").write_text("a street")
    (task,) = ready_made_tasks(str(tmp_path), 4)
    outcome = build(task, small, tmp_path / "out")
    assert outcome.pairs == ({"id": "a", "split": "test", "photograph": "hq/a.png", "box": None},)
    for side in ("hq", "lq"):
        with Image.open(tmp_path / side / "a.png") as before, Image.open(tmp_path / f"out/test/{side}/a.png") as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))
    assert (tmp_path / "out/test/captions/a.txt").read_text() == "a street\n"


def test_a_damaged_pair_fails_the_run_rather_than_shrink_the_test_set(tmp_path: Path, small: Params) -> None:
    save(tmp_path / "hq" / "a.png", 32, 16)
    save(tmp_path / "lq" / "a.png", 8, 4)
    (task,) = ready_made_tasks(str(tmp_path), 4)
    path = tmp_path / "hq" / "a.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a\.png: cannot be decoded"):
        build(task, small, tmp_path / "out")
