"""The output of `tsdsr doctor`: one line per finding, with its state and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD, NOTE = "ok", "warn", "BAD", ""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        state: OK, WARN, BAD, or NOTE for plain information.
        subject: a device, package or key of params.
        text: the finding.
        cure: the remedy, if there is one.
    """

    state: str
    subject: str
    text: str
    cure: str = ""


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
