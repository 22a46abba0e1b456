"""SIGTERM and Ctrl-C: how a stage leaves, and the exit status that says so.

    75   SIGTERM, from a scheduler or `kill`: the work is not done; start it again and it goes on (EX_TEMPFAIL)
    130  Ctrl-C: the same, as shells write it

Within `raising` a signal ends the stage where it is: files and directories are written aside, so nothing half-written
is left. Within `deferred` the first signal is only noted, for work that can end at a better place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

STATUS = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 128 + signal.SIGINT}


class Interrupted(SystemExit):
    """The process was told to leave. `code` is its exit status.

    Args:
        signum: SIGTERM or SIGINT.
        kept: what the next start goes on from, for people.
    """

    def __init__(self, signum: int, kept: str = "nothing half-written is left") -> None:
        self.signum, self.kept = signal.Signals(signum), kept
        super().__init__(STATUS[self.signum])

    def __str__(self) -> str:
        return f"interrupted by {self.signum.name}: {self.kept}. Run the same command (or `dvc repro`) again to go on."


class Request:
    """Whether the process was told to leave, and by which signal."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def asked(self) -> bool:
        return self.signum is not None


@contextmanager
def raising() -> Iterator[None]:
    """In the main thread SIGTERM raises `Interrupted`, and Ctrl-C a KeyboardInterrupt that becomes one at the end."""

    request = Request()

    def leave(signum: int, frame: Any) -> None:
        request.signum = signum
        raise KeyboardInterrupt if signum == signal.SIGINT else Interrupted(signum)

    try:
        with _handled(leave):
            yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(signal.SIGINT) from interrupt
    except SystemExit as end:
        if request.signum is None or isinstance(end, Interrupted):
            raise
        raise Interrupted(request.signum) from end  # Ray makes an exit of its own of ours, where it waits


@contextmanager
def deferred(tell: Callable[[], None] = lambda: None) -> Iterator[Request]:
    """The first signal is noted in the `Request` and passed on to `tell`; a second Ctrl-C raises `Interrupted`.

    A second SIGTERM does not: schedulers send it to a process and to its group.
    """
    request = Request()

    def note(signum: int, frame: Any) -> None:
        if request.asked() and signum == signal.SIGINT:
            raise Interrupted(signum, "the last checkpoint is kept")
        request.signum = signum
        tell()

    with _handled(note):
        yield request


@contextmanager
def kept() -> Iterator[None]:
    """Whatever the block does to the two signals is undone: Ray takes SIGTERM for itself when it starts."""
    with _handled(None):
        yield


@contextmanager
def in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server beside the block, and then until it ends or a signal ends it: the normal end, and so no failure.

    Raises:
        SystemExit: with the server's status, where it failed by itself.
    """
    with subprocess.Popen(command, env=dict(environment)) as server:
        try:
            yield server
            if status := server.wait():
                raise SystemExit(status)
        except (KeyboardInterrupt, Interrupted):
            ignored()
            server.terminate()


def ignored() -> None:
    """From here on both signals are ignored: the work is done, and must not look undone for one on the way out."""
    for signum in STATUS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def _handled(handler: Callable[[int, Any], None] | None) -> Iterator[None]:
    """Set in the main thread, the only one that can; elsewhere, a no-op."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in STATUS}
    try:
        for signum in STATUS if handler else ():
            signal.signal(signum, handler)
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)
