from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tsdsr.config import Params
from tsdsr.data.builders import Task
from tsdsr.data.tasks import plan
from tsdsr.errors import UserError


def splits(tasks: list[Task]) -> dict[str, str]:
    return {task.ref.id: task.split for task in tasks}


def test_one_source_is_split(small: Params, folder: Path) -> None:
    found = splits(plan(small.overlay({"data": {"source": str(folder), "test_fraction": 0.25}})))
    assert len(found) == 8
    assert list(found.values()).count("test") == 2


def test_a_source_for_testing_leaves_the_other_whole(small: Params, folder: Path) -> None:
    params = small.overlay({"data": {"source": "bundled", "test_source": str(folder)}})
    found = splits(plan(params))
    assert list(found.values()).count("test") == 8
    assert found["cat"] == "train"


def test_a_photograph_in_both_sources(small: Params, folder: Path) -> None:
    params = small.overlay({"data": {"source": str(folder), "test_source": str(folder / "by day")}})
    with pytest.raises(UserError, match=r"4 of its photographs are in data\.source too"):
        plan(params)


def test_ready_made_pairs(small: Params, folder: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "ready"
    shutil.copytree(folder / "by day", pairs / "hq")
    shutil.copytree(folder / "by day", pairs / "lq")
    params = small.overlay({"data": {"source": "bundled", "test_source": str(pairs), "test_set": "pairs", "scale": 1}})
    assert [task.lq is not None for task in plan(params)].count(True) == 4


def test_ready_made_pairs_need_a_source(small: Params) -> None:
    with pytest.raises(UserError, match="test_source is null"):
        small.overlay({"data": {"test_set": "pairs"}})


def test_tasks_survive_another_process(small: Params, folder: Path) -> None:
    for task in plan(small.overlay({"data": {"source": str(folder)}})):
        assert Task.from_json(task.to_json()) == task
