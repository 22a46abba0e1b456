from __future__ import annotations

import os
from pathlib import Path

import pytest

from tsdsr.data.photographs import PhotographRef, find_photographs, split_of
from tsdsr.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(source: object) -> list[str]:
    return [ref.id for ref in find_photographs(source)]  # type: ignore[arg-type]


def test_finds_photographs_in_all_folders_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b/c.tiff", "b/notes.txt", "b/d/e.webp")
    assert [(ref.id, ref.name) for ref in find_photographs(str(tmp_path))] == [
        ("a", "a.JPG"),
        ("b--c", "b/c.tiff"),
        ("b--d--e", "b/d/e.webp"),
    ]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".thumbnails/b.jpg")
    assert ids(str(tmp_path)) == ["a"]


def test_files_that_may_be_pictures_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.jpg", "b.heic", "c.heic", "a.txt")
    assert ids(str(tmp_path)) == ["a"]
    assert "by their names: 2 .heic, 1 .txt" in caplog.text


def test_companions_alone_are_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.jpg", "a.txt", "list.csv")
    ids(str(tmp_path))
    assert not caplog.text


def test_one_stem_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "x/same.jpg", "y/same.jpg")
    assert ids(str(tmp_path)) == ["x--same", "y--same"]


@pytest.mark.parametrize("names", [("same.jpg", "same.png"), ("a b.jpg", "a-b.jpg"), ("Case.jpg", "case.jpg")])
def test_names_that_would_make_one_id_are_told_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    found = ids(str(tmp_path))
    assert len({name.casefold() for name in found}) == 2
    (tmp_path / "other.jpg").touch()
    assert set(found) < set(ids(str(tmp_path)))


def test_an_id_does_not_depend_on_the_other_photographs(tmp_path: Path) -> None:
    touch(tmp_path, "m.jpg")
    before = ids(str(tmp_path))
    touch(tmp_path, "a.jpg", "z/m.jpg", "m/m.jpg")
    assert set(before) < set(ids(str(tmp_path)))


def test_spaces_and_letters_of_any_language(tmp_path: Path) -> None:
    touch(tmp_path, "Mein Café (1).jpg", "写真 一.png", "...jpg")
    assert ids(str(tmp_path)) == ["Mein-Café-1", "写真-一"]  # `...jpg` is hidden


def test_composed_and_decomposed_accents_give_one_id(tmp_path: Path) -> None:
    (tmp_path / "nfc").mkdir()
    (tmp_path / "nfd").mkdir()
    touch(tmp_path, "nfc/caf\u00e9.jpg", "nfd/cafe\u0301.jpg")
    assert ids(str(tmp_path / "nfc")) == ids(str(tmp_path / "nfd")) == ["café"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))).touch()
    (ref,) = find_photographs(str(tmp_path))
    assert ref.name == "caf\\xe9.jpg"
    assert ref.path.exists()
    ref.id.encode()


def test_very_long_names(tmp_path: Path) -> None:
    touch(tmp_path, f"{'a' * 200}1.jpg", f"{'a' * 200}2.jpg")
    found = ids(str(tmp_path))
    assert len(set(found)) == 2
    assert all(len(name) <= 100 for name in found)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "again").symlink_to(tmp_path / "in")
    assert ids(str(tmp_path)) == ["in--a"]


def test_a_linked_photograph_is_taken_once_and_in_its_own_place(tmp_path: Path) -> None:
    touch(tmp_path, "z/real.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "z" / "real.jpg")
    assert ids(str(tmp_path)) == ["z--real"]


def test_links_to_the_outside_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "outside/a.jpg")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "outside")
    assert ids(str(tmp_path / "source")) == ["linked--a"]


def test_a_link_to_nowhere_is_listed(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert ids(str(tmp_path)) == ["gone"]


def test_glob_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.png", "b/c/3.jpg")
    assert ids(f"{tmp_path}/*/*.jpg") == ["a--1"]
    assert ids(f"{tmp_path}/**/*.jpg") == ["a--1", "b--c--3"]


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "holiday [2024]/a.jpg")
    assert ids(str(tmp_path / "holiday [2024]")) == ["a"]


def test_several_sources(tmp_path: Path) -> None:
    touch(tmp_path, "div2k/0001.png", "flickr/0001.png", "x/train/1.png", "y/train/1.png")
    assert ids([f"{tmp_path}/div2k", f"{tmp_path}/flickr"]) == ["div2k--0001", "flickr--0001"]
    assert len(set(ids([f"{tmp_path}/x/train", f"{tmp_path}/y/train"]))) == 2
    assert "cat" in ids(["bundled", f"{tmp_path}/div2k"])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.source: .*nowhere does not exist"):
        find_photographs(str(tmp_path / "nowhere"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UserError, match="is a file"):
        find_photographs(str(tmp_path / "a.jpg"))


def test_empty_folder_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found: nothing"):
        find_photographs(str(tmp_path))
    touch(tmp_path, "a.heic", "b.heic", "c")
    with pytest.raises(UserError, match=r"found: 2 \.heic, 1 no suffix"):
        find_photographs(str(tmp_path))


def refs(*names: str) -> list[PhotographRef]:
    return [PhotographRef(name, Path(name), name) for name in names]


def test_split_is_by_photograph_and_of_the_asked_size() -> None:
    names = [f"p{i}" for i in range(100)]
    splits = split_of(refs(*names), 0.3)
    assert sum(split == "test" for split in splits.values()) == 30
    assert splits == split_of(refs(*reversed(names)), 0.3)


def test_split_changes_little_when_a_photograph_comes() -> None:
    names = [f"p{i}" for i in range(100)]
    before, after = split_of(refs(*names), 0.3), split_of(refs(*names, "new"), 0.3)
    assert sum(before[name] != after[name] for name in names) <= 1


def test_split_leaves_both_sides_something() -> None:
    assert sorted(split_of(refs("a", "b"), 0.01).values()) == ["test", "train"]
    assert sorted(split_of(refs("a", "b"), 0.99).values()) == ["test", "train"]


def test_one_photograph_cannot_be_split() -> None:
    with pytest.raises(UserError, match="at least two"):
        split_of(refs("a"), 0.5)
