"""What `tsdsr doctor` prints: a line a finding, with its state and its cure."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD, NOTE = "ok", "warn", "BAD", ""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        state: OK, WARN, BAD, or NOTE for a plain fact.
        subject: what it is about.
        text: what was found.
        cure: the change to make, if there is one.
    """

    state: str
    subject: str
    text: str
    cure: str = ""


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
