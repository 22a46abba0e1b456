from __future__ import annotations

import os
from pathlib import Path

import pytest

from tsdsr import picture_files
from tsdsr.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "notes.txt", ".hidden.jpg", "b/c.PNG", ".cache/d.png", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(found: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_what_is_visible_is_found(folder: Path) -> None:
    assert names(picture_files.walk(folder, set()), folder) == ["README", "a.jpg", "notes.txt", "b/c.PNG"]


def test_links_come_last_and_circles_end(folder: Path) -> None:
    (folder / "0").symlink_to(folder / "b")
    (folder / "b" / "circle").symlink_to(folder)
    (folder / "1.jpg").symlink_to("a.jpg")
    (folder / "2.jpg").symlink_to("nothing.jpg")
    assert names(picture_files.walk(folder, set()), folder)[-3:] == ["b/c.PNG", "1.jpg", "2.jpg"]


def test_what_was_seen_is_not_entered(folder: Path) -> None:
    assert "b/c.PNG" not in names(picture_files.walk(folder, {(folder / "b").resolve()}), folder)


def test_a_pipe_is_no_picture(folder: Path) -> None:
    """Reading one would wait for ever."""
    os.mkfifo(folder / "pipe.jpg")
    assert "pipe.jpg" not in names(picture_files.walk(folder, set()), folder)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: Path) -> object:  # the superuser may list everything, so a mode of 000 would test nothing
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"the folder .*/b cannot be listed: Permission denied"):
        picture_files.walk(folder, set())


def test_names_tell_pictures_apart(folder: Path) -> None:
    found, others = picture_files.told_apart(picture_files.walk(folder, set()))
    assert names(found, folder) == ["a.jpg", "b/c.PNG"]
    assert picture_files.counted(others) == "1 .txt, 1 no suffix"


def test_the_table_of_docs_names_every_suffix(root: Path) -> None:
    words = (root / "docs" / "photographs.md").read_text(encoding="utf-8").replace(",", " ").split()
    assert {suffix for suffix in picture_files.SUFFIXES if suffix not in words and f"{suffix}." not in words} == set()
