"""What the driver of a distillation and its workers tell each other past Ray: files that all of them see."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tsdsr import files
from tsdsr.errors import UserError


@dataclass(frozen=True)
class Control:
    """The files of one run, by its name.

    Attributes:
        directory: theirs alone; locks are taken on `lock` (the driver) and `writer` (the worker that saves).
    """

    directory: Path

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def writer(self) -> Path:
        return self.directory / "writer"

    @property
    def stop(self) -> Path:
        """There when the workers are to save a checkpoint and leave; alone in its folder, which travels as a tree."""
        return self.directory / "asked/stop"

    @property
    def failure(self) -> Path:
        """There when a worker met what no restart mends; holds it in words."""
        return self.directory / "failure"

    def clear(self) -> None:
        """Forget what an earlier run was told."""
        self.stop.parent.mkdir(parents=True, exist_ok=True)
        self.stop.unlink(missing_ok=True)
        self.failure.unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # called by a signal: a full disk must not break the run off here
            self.stop.touch()

    def fail(self, text: str) -> None:
        with suppress(OSError, UserError):  # on a full disk Ray's own report must do
            files.write_text(self.failure, text)

    def has_failed(self) -> bool:
        return self.failure.is_file()

    def raise_failure(self) -> None:
        """Raise as a `UserError` what a worker wrote down, if one did."""
        if self.has_failed():
            raise UserError(self.failure.read_text(encoding="utf-8"))
