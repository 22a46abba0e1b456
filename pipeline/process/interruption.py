"""SIGTERM and Ctrl-C: how a stage ends on a signal, and its exit status.

    75   SIGTERM, from a scheduler or `kill`: unfinished; it continues when it is started again (EX_TEMPFAIL)
    130  Ctrl-C: likewise, with the exit status that shells use

Within `raising` a signal ends the stage at once: files and directories are written aside and renamed, so no
half-written one is left. Within `deferred` the first signal is only noted, for work that ends at a checkpoint.
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
    """A signal asked the process to end. `code` is its exit status.

    Args:
        signum: SIGTERM or SIGINT.
        kept: for the message: the state from which the next start continues.
    """

    def __init__(self, signum: int, kept: str = "nothing half-written is left") -> None:
        self.signum, self.kept = signal.Signals(signum), kept
        super().__init__(STATUS[self.signum])

    def __str__(self) -> str:
        return (
            f"interrupted by {self.signum.name}: {self.kept}. Run the same command (or `dvc repro`) again to continue."
        )


class Request:
    """Whether a signal asked the process to end, and which."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def asked(self) -> bool:
        return self.signum is not None


@contextmanager
def raising() -> Iterator[None]:
    """In the main thread SIGTERM raises `Interrupted`, and Ctrl-C a KeyboardInterrupt, raised again as
    `Interrupted`."""

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
        raise Interrupted(request.signum) from end  # while Ray waits, it turns our exception into a SystemExit


@contextmanager
def deferred(tell: Callable[[], None] = lambda: None) -> Iterator[Request]:
    """The first signal is noted in the `Request` and `tell` is called; a second Ctrl-C raises `Interrupted`.

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
    """Restore the handlers of both signals after the block: Ray installs its own for SIGTERM when it starts."""
    with _handled(None):
        yield


@contextmanager
def in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server during the block and after it, until the server ends or a signal ends it, which is no failure.

    Raises:
        SystemExit: with the server's status, if the server failed.
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
    """Ignore both signals from here on: the work is done, and a late signal must not change the exit status."""
    for signum in STATUS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def _handled(handler: Callable[[int, Any], None] | None) -> Iterator[None]:
    """Set handlers in the main thread, the only one that can; a no-op in others."""
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
