"""Killed by SIGKILL in some of the benchmark's ways, distillation ends with the bytes of an undisturbed run."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from benchmarks import faults

IN_ONE_PROCESS = [name for name, way in faults.WAYS.items() if way.num_workers == 0]
UNDER_RAY = ["a Ray worker", "the driver, on a cluster"]


@pytest.fixture
def another_head() -> Iterator[None]:
    """The ports are taken that Ray's head takes where it is told no others."""
    with ExitStack() as stack:
        for port in (6379, 8265, 10001, 52365):
            with suppress(OSError):  # it is taken indeed
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.mark.repro
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("another_head")
@pytest.mark.parametrize("ways", [IN_ONE_PROCESS, UNDER_RAY], ids=["one process", "under Ray"])
def test_killed_runs_end_with_the_same_bytes(tmp_path: Path, ways: list[str]) -> None:
    survived, kills = faults.run(tmp_path, ways, random.Random(0), most_kills=1)
    assert survived == len(ways)
    assert kills == len(ways)


def test_a_run_that_ends_differently_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself must be able to fail."""
    with ExitStack() as stack:
        bench = faults.Bench(tmp_path, [], stack)
        bench.wanted[0] = "the digest of another run"
        monkeypatch.setattr(faults, "finish", lambda target, process: process.wait() is not None)
        monkeypatch.setattr(faults.Target, "outcome", lambda target: "the digest of this run")
        same, struck = bench.attempt(0, faults.Way(lambda *_: None, faults.driver), random.Random(0))
    assert not same
    assert struck > 0
