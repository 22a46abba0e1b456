"""Trees under a URL: whole or absent, checked, and sent once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cluster import tree_store
from pipeline.cluster.storage import Place
from pipeline.cluster.tree_store import TreeStore
from tsdsr.errors import UserError


@pytest.fixture(params=["fsspec", "pyarrow"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TreeStore:
    """A store under file://, opened by fsspec, and by pyarrow as a protocol is that fsspec has no package for."""
    if request.param == "pyarrow":
        import fsspec

        def no_package(url: str) -> None:
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec.core, "url_to_fs", no_package)
    (tmp_path / "bucket").mkdir()
    return TreeStore(f"file://{tmp_path}/bucket/my experiment")


def write(root: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = root / "data/latents" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_host_gets_what_was_pushed_and_each_change_of_it(store: TreeStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, a="1", b="2", c__d="3")
    store.push(here, "data/latents")
    assert read(tmp_path / "bucket/my experiment/data/latents") == {"a": "1", "b": "2", "c/d": "3"}
    assert store.pull(there, "data/latents")
    assert read(there / "data/latents") == {"a": "1", "b": "2", "c/d": "3"}
    (here / "data/latents/c/d").unlink()
    write(here, b="22")
    store.push(here, "data/latents")
    store.pull(there, "data/latents")
    assert read(there / "data/latents") == read(tmp_path / "bucket/my experiment/data/latents") == {"a": "1", "b": "22"}
    assert not (there / "data/latents/c").exists()


def test_files_travel_once(store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, a="1", b="2")
    store.push(here, "data/latents")
    store.pull(there, "data/latents")
    moved: list[str] = []
    monkeypatch.setattr(TreeStore, "_send", lambda self, source, path: moved.append(path))
    monkeypatch.setattr(TreeStore, "_fetch", lambda self, root, path, entry: moved.append(path))
    monkeypatch.setattr(tree_store.files, "sha256_file", lambda path: pytest.fail("read again, though unchanged"))
    store.push(here, "data/latents")
    store.pull(there, "data/latents")
    assert moved == []


def test_a_part_of_a_tree_and_a_single_file_can_be_had(store: TreeStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, a="1", c__d="3")
    store.push(here, "data/latents")
    store.pull(there, "data/latents/c")
    assert read(there / "data") == {"latents/c/d": "3"}
    with pytest.raises(UserError, match="part of data/latents"):
        store.push(here, "data/latents/a")
    (here / "curve.csv").write_text("x")
    store.push(here, "curve.csv")
    assert store.pull(there, "curve.csv")
    assert (there / "curve.csv").read_text() == "x"


def test_a_push_that_was_cut_short_left_nothing(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, a="1", b="2")
    store.push(here, "data/latents")
    write(here, a="11", b="22")
    send = TreeStore._send

    def fail_at_b(self: TreeStore, source: Path, path: str) -> None:
        if path.endswith("b"):
            raise OSError("the line went dead")
        send(self, source, path)

    with monkeypatch.context() as patch:
        patch.setattr(TreeStore, "_send", fail_at_b)
        with pytest.raises(OSError, match="dead"):
            store.push(here, "data/latents")
    assert not store.pull(there, "data/latents")
    store.push(here, "data/latents")
    store.pull(there, "data/latents")
    assert read(there / "data/latents") == {"a": "11", "b": "22"}


def test_a_damaged_file_is_refused_and_a_damaged_copy_fetched_again(store: TreeStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, a="1", b="2")
    store.push(here, "data/latents")
    store.pull(there, "data/latents")
    write(there, a="X")
    os.utime(there / "data/latents/a", (0, 0))  # a coarse clock may give it the time of the file before it
    store.pull(there, "data/latents")
    assert read(there / "data/latents")["a"] == "1"
    (tmp_path / "bucket/my experiment/data/latents/a").write_text("Y")
    with pytest.raises(UserError, match="does not match its sha256"):
        store.pull(tmp_path / "third", "data/latents")


def test_entries_of_a_folder_come_and_go_one_by_one(store: TreeStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = here / ".tsdsr/checkpoints/full"
    for step in ("step-00000002", "step-00000004", ".step-00000006-unfinished"):
        (folder / step).mkdir(parents=True)
        (folder / step / "state.json").write_text(step)
    store.push_each(here, ".tsdsr/checkpoints/full")
    (there / ".tsdsr/checkpoints/full/step-00000009").mkdir(parents=True)  # of a worker that was killed before its push
    (there / ".tsdsr/checkpoints/full/step-00000009/state.json").write_text("lost")
    store.pull(there, ".tsdsr/checkpoints/full")
    assert sorted(path.name for path in (there / ".tsdsr/checkpoints/full").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    (folder / "step-00000002/state.json").unlink()
    (folder / "step-00000002").rmdir()
    store.push_each(here, ".tsdsr/checkpoints/full")
    assert store.names(".tsdsr/checkpoints/full") == [".tsdsr/checkpoints/full/step-00000004"]
    assert not list((tmp_path / "bucket").rglob("step-00000002/*"))


def test_a_place_fetches_trees_one_by_one_and_leaves_what_else_there_is(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sweep does: its study has trials of this host that have not ended yet."""
    here, trials = tmp_path / "here", ".tsdsr/sweep/smoke/trials"
    (here / trials / "a").mkdir(parents=True)
    (here / trials / "a/trial.json").write_text("ended")
    store.push(here, f"{trials}/a")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = Place.at("/no/such", store.url)
    (place.root / trials / "b").mkdir(parents=True)
    (place.root / trials / "b/trial.json").write_text("begun")
    place.pull_each(place.root / ".tsdsr/sweep/smoke")
    assert read(place.root / trials) == {"a/trial.json": "ended", "b/trial.json": "begun"}


def test_a_protocol_that_nothing_opens_says_so() -> None:
    with pytest.raises(UserError, match=r"cluster\.storage nosuch://x/y"):
        TreeStore("nosuch://x/y")
