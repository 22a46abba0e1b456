from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tsdsr import files
from tsdsr.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(writing, name=None):
    """Write half of something within `writing`, then fail as a full disk or a kill would."""
    with writing as aside:
        (aside / name if name else aside).write_text("half")
        raise RuntimeError


def refused(*paths):
    raise OSError(errno.EXDEV, "another disk")


def full_disk(*paths):
    raise OSError(errno.ENOSPC, "no space")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "x.json"
    with pytest.raises(RuntimeError):
        break_off(files.atomic_file(target))
    assert names(target.parent) == []
    files.write_text(target, "whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["x.json"]


def test_a_failed_write_keeps_the_file_before_it(tmp_path):
    target = tmp_path / "x.txt"
    files.write_text(target, "first")
    with pytest.raises(RuntimeError):
        break_off(files.atomic_file(target))
    assert target.read_text() == "first"


def test_the_file_written_aside_keeps_the_suffix(tmp_path):
    with files.atomic_file(tmp_path / "x.png") as aside:
        assert aside.suffix == ".png"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_who_may_read_what_is_written_is_for_the_umask_to_say(tmp_path, mask):
    former = os.umask(mask)
    try:
        files.write_text(tmp_path / "file", "1")
        with files.atomic_directory(tmp_path / "directory") as aside:
            (aside / "deep").mkdir()
            (aside / "deep" / "weights").touch(0o600)  # as safetensors writes them
        files.put_in_place(tmp_path / "directory", tmp_path / "copy")
    finally:
        os.umask(former)
    for place in ("directory", "directory/deep", "copy", "copy/deep"):
        assert (tmp_path / place).stat().st_mode & 0o777 == 0o777 & ~mask
    for place in ("file", "directory/deep/weights", "copy/deep/weights"):
        assert (tmp_path / place).stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_directory_is_replaced_whole(tmp_path):
    target = tmp_path / "student"
    with files.atomic_directory(target) as aside:
        (aside / "old").write_text("1")
    with files.atomic_directory(target) as aside:
        (aside / "new").write_text("2")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    with pytest.raises(RuntimeError):
        break_off(files.atomic_directory(target), "broken")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["student"]


@pytest.mark.parametrize("links", [True, False])
def test_a_finished_directory_takes_the_place_of_another_and_stays(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(files.os, "link", refused)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_text("1")
    (source / "deep/b").write_text("2")
    for left in (target, tmp_path / ".target.new", tmp_path / ".target.old"):  # the two by one that was killed
        left.mkdir()
        (left / "old").write_text("0")
    files.put_in_place(source, target)
    assert names(target) == names(source) == ["a", "deep"]
    assert (target / "deep/b").read_text() == "2"
    assert names(tmp_path) == ["source", "target"]


def test_a_full_disk_or_an_interruption_leaves_the_directory_that_is_there(tmp_path, monkeypatch):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("1")
    replace = Path.replace

    def interrupted(path, target):
        if path.name == ".target.new":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.put_in_place(tmp_path / "source", tmp_path / "target")
    assert names(tmp_path) == ["source", "target"]
    assert names(tmp_path / "target") == ["target"]
    monkeypatch.setattr(files, "_link", full_disk)
    with pytest.raises(UserError, match="target: no space left"):
        files.put_in_place(tmp_path / "source", tmp_path / "target")
    assert names(tmp_path) == ["source", "target"]
    assert names(tmp_path / "target") == ["target"]


def test_code_has_one_digest_until_it_is_edited(tmp_path):
    (tmp_path / "area").mkdir()
    (tmp_path / "area/a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 1")
    before = files.sha256_code(tmp_path / "area", tmp_path / "b.py")
    (tmp_path / "area/notes.txt").write_text("no code")
    assert files.sha256_code(tmp_path / "area", tmp_path / "b.py") == before
    (tmp_path / "area/a.py").write_text("x = 2")
    assert files.sha256_code(tmp_path / "area", tmp_path / "b.py") != before


def test_json_is_stable_and_readable(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "é", "b": 1}


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert files.sha256_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")
