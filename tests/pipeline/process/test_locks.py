"""One process at a time, and no lock that outlives its holder."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import precompute, teacher
from pipeline.process import locks
from pipeline.stages import lineage
from pipeline.sweep import __main__ as sweep
from tsdsr.errors import UserError

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pipeline.process import locks
with locks.exclusive_lock(sys.argv[1], "the work"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock at `tmp_path`/deep/lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "deep/lock")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_is_refused_and_told_who_is_at_work(tmp_path: Path, holder) -> None:
    with (
        pytest.raises(UserError, match=f"the work is already running, in process {holder.pid} on ") as caught,
        locks.exclusive_lock(tmp_path / "deep/lock", "the work"),
    ):
        pass
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(.*python", str(caught.value))
    assert str(tmp_path / "deep/lock") in str(caught.value)
    assert "\n" not in str(caught.value).replace(HOLD, "")


@pytest.mark.parametrize(
    ("module", "lock", "work"),
    [
        (teacher, teacher.LOCK, "the stage teacher"),
        (precompute, precompute.LOCK, "the stage precompute"),
        (sweep, sweep.SWEEPS / "default/.running", "the sweep default"),
    ],
)
def test_a_second_of_these_meanwhile_is_refused(
    module: ModuleType, lock: Path, work: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lineage, "check", lambda params, *paths: None)
    monkeypatch.setattr("sys.argv", [module.__name__, "--params", str(root / "params.yaml")])
    with locks.exclusive_lock(lock, "x"), pytest.raises(UserError, match=f"{work} is already running"):
        module.main()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_goes_with_its_holder(tmp_path: Path, holder, signum: int) -> None:
    os.kill(holder.pid, signum)
    holder.wait()
    with locks.exclusive_lock(tmp_path / "deep/lock", "the work"):
        assert f"process {os.getpid()} on " in (tmp_path / "deep/lock.holder").read_text()


def test_it_is_free_again_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locks.exclusive_lock(tmp_path / "lock", "x"):
        raise RuntimeError
    with locks.exclusive_lock(tmp_path / "lock", "x"), locks.exclusive_lock(tmp_path / "another", "y"):
        pass


def test_in_turn_waits_for_the_one_before_and_says_so(tmp_path: Path, holder, caplog) -> None:
    class Ends(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            holder.kill()

    locks.logger.addHandler(handler := Ends())
    with caplog.at_level(logging.WARNING), locks.in_turn(tmp_path / "deep/lock", "the next"):
        assert f"the next waits for process {holder.pid}" in caplog.text
    locks.logger.removeHandler(handler)
