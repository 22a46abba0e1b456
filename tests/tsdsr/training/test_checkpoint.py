from __future__ import annotations

import json
import logging

import pytest
import torch

from tsdsr.training.checkpoint import META, TENSORS, Checkpoint, CheckpointStore


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"a": torch.full((3,), float(step)), "b": torch.arange(4)}, {"history": [step]})


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run", "key", keep=2)


def names(store):
    return sorted(path.name for path in store.directory.iterdir())


def test_what_is_saved_comes_back(store):
    assert store.latest() is None
    store.save(checkpoint(10))
    found = store.latest()
    assert found.step == 10
    assert found.values == {"history": [10]}
    assert torch.equal(found.tensors["a"], torch.full((3,), 10.0))
    assert torch.equal(found.tensors["b"], torch.arange(4))


def test_the_newest_are_kept_and_sort_past_a_power_of_ten(store):
    for step in (8, 9, 10, 11):
        store.save(checkpoint(step))
    assert names(store) == ["step-00000010", "step-00000011"]
    assert store.latest().step == 11


def test_a_damaged_newest_is_passed_over(store, caplog):
    for step in (1, 2):
        store.save(checkpoint(step))
    tensors = store.directory / "step-00000002" / TENSORS
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert store.latest().step == 1
    assert "step-00000002 is damaged" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / TENSORS).unlink(),
        lambda path: (path / META).unlink(),
        lambda path: (path / META).write_text("{"),
        lambda path: (path / META).write_text("[]"),
        lambda path: (path / META).write_text("{}"),
        lambda path: (path / TENSORS).write_bytes(b""),
    ],
    ids=["no tensors", "no meta", "cut meta", "another meta", "empty meta", "empty tensors"],
)
def test_any_damage_is_passed_over(store, damage):
    for step in (1, 2):
        store.save(checkpoint(step))
    damage(store.directory / "step-00000002")
    assert store.latest().step == 1
    damage(store.directory / "step-00000001")
    assert store.latest() is None


def test_another_configurations_checkpoint_is_not_resumed_from(store, caplog):
    store.save(checkpoint(1))
    other = CheckpointStore(store.directory, "another key", keep=2)
    with caplog.at_level(logging.WARNING):
        assert other.latest() is None
    assert "another configuration" in caplog.text
    assert store.latest().step == 1


def test_what_another_configuration_got_further_with_does_not_push_ours_out(store):
    for step in (8, 10):
        CheckpointStore(store.directory, "another key", keep=2).save(checkpoint(step))
    store.save(checkpoint(2))
    assert names(store) == ["step-00000002"]
    assert store.latest().step == 2


def test_a_save_that_breaks_off_leaves_the_ones_before_it(store, monkeypatch):
    store.save(checkpoint(1))

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("tsdsr.training.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        store.save(checkpoint(2))
    assert names(store) == ["step-00000001"]
    assert store.latest().step == 1


def test_what_else_lies_there_is_ignored(store):
    store.save(checkpoint(1))
    for name in ("step-latest", "step-1", ".step-00000002-half", "step-00000009.bak"):
        (store.directory / name).mkdir()
    assert store.latest().step == 1
    store.save(checkpoint(2))
    assert (store.directory / "step-latest").is_dir()


def test_meta_is_readable(store):
    path = store.save(checkpoint(3))
    meta = json.loads((path / META).read_text())
    assert (meta["key"], meta["step"]) == ("key", 3)
