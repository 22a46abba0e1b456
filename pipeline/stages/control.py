"""Files through which the driver of a distillation and its workers communicate outside of Ray."""

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
        directory: of this run alone. The driver locks `lock`; the worker that saves locks `writer`.
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
        """Exists when the workers are to save a checkpoint and end; alone in its folder, which is sent as a tree."""
        return self.directory / "asked/stop"

    @property
    def failure(self) -> Path:
        """Exists after an error that a restart cannot fix; contains its message."""
        return self.directory / "failure"

    def clear(self) -> None:
        """Remove the files of an earlier run."""
        self.stop.parent.mkdir(parents=True, exist_ok=True)
        self.stop.unlink(missing_ok=True)
        self.failure.unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # called in a signal handler: a full disk must not end the run here
            self.stop.touch()

    def fail(self, text: str) -> None:
        with suppress(OSError, UserError):  # on a full disk only Ray's own report remains
            files.write_text(self.failure, text)

    def has_failed(self) -> bool:
        return self.failure.is_file()

    def raise_failure(self) -> None:
        """Raise the message that a worker left as a `UserError`, if there is one."""
        if self.has_failed():
            raise UserError(self.failure.read_text(encoding="utf-8"))
