"""What a sweep has done so far, as plain files: one folder a trial, named by its values.

    .tsdsr/sweep/<name>/sweep.json             what the trials have in common; another configuration is refused
    .tsdsr/sweep/<name>/pairs/                 the training pairs, split by photograph into train and validation
    .tsdsr/sweep/<name>/trials/<key>/trial.json    values; scores by step; how it ended, once it has

A trial whose end is written is never run again; one without an end is continued from its last checkpoint.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.sweep.space import Point, point_key
from pipeline.tracking.outbox import locked
from pipeline.tracking.provenance import hash_values
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
# Sections that do not change what a trial's score means.
_IRRELEVANT = ("ablate", "sweep", "report", "tracking", "evaluate", "prepare", "cluster")


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        values: dotted key -> value.
        scores: step -> (mean, low, high) of the sweep's metric on the validation pairs; the ends may be None.
        end: how it ended, or None while it has not.
        number: its place in the order in which trials began.
    """

    values: Point
    number: int
    scores: dict[int, tuple[float, float | None, float | None]] = field(default_factory=dict)
    end: str | None = None
    reason: str | None = None

    @property
    def key(self) -> str:
        return point_key(self.values)

    @property
    def last_step(self) -> int:
        return max(self.scores, default=0)

    @property
    def score(self) -> float | None:
        """At its last step."""
        return self.scores[self.last_step][0] if self.scores else None


class Ledger:
    """The trials of one sweep on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.about = directory / "sweep.json"

    def open(self, params: Params) -> str:
        """Begin or continue; returns the identity of what the trials have in common.

        Raises:
            UserError: when the folder holds the trials of another configuration.
        """
        identity = _identity(params)
        if self.about.is_file() and files.read_json(self.about)["identity"] != identity:
            raise UserError(
                f"{self.directory} holds a sweep over other params, whose scores do not compare; "
                "give this one another sweep.name, or remove that folder"
            )
        files.write_json(self.about, {"identity": identity, "params": params.to_dict()})
        return identity

    def folder(self, key: str) -> Path:
        return self.directory / "trials" / key

    def begin(self, values: Point) -> TrialRecord:
        """The record of these values, found or made."""
        path = self.folder(point_key(values)) / "trial.json"
        with locked(self.directory):  # trials that begin at once must not share a number
            if path.is_file():
                return _read(path)
            record = TrialRecord(values, number=len(self.records()) + 1)
            self.write(record)
            return record

    def write(self, record: TrialRecord) -> None:
        values: dict[str, Any] = {
            "values": record.values,
            "number": record.number,
            "scores": {str(step): list(score) for step, score in sorted(record.scores.items())},
            "end": record.end,
            "reason": record.reason,
        }
        files.write_json(self.folder(record.key) / "trial.json", values)

    def close(self, key: str, end: str, reason: str | None = None) -> None:
        """Write how a trial ended, unless that is known already; its checkpoints are no longer needed."""
        record = self.read(key)
        if record.end is None:
            record.end, record.reason = end, reason
            self.write(record)
        for name in ("checkpoints", "rung", "restored"):
            shutil.rmtree(self.folder(key) / name, ignore_errors=True)

    def read(self, key: str) -> TrialRecord:
        """The record of a trial that has begun."""
        return _read(self.folder(key) / "trial.json")

    def records(self) -> list[TrialRecord]:
        """Every trial, in the order in which they began."""
        found = [_read(path) for path in (self.directory / "trials").glob("*/trial.json")]
        return sorted(found, key=lambda record: (record.number, record.key))

    def ended(self) -> list[TrialRecord]:
        return [record for record in self.records() if record.end is not None]

    def unfinished(self) -> list[TrialRecord]:
        return [record for record in self.records() if record.end is None]


def _read(path: Path) -> TrialRecord:
    values = files.read_json(path)
    scores = {int(step): (score[0], score[1], score[2]) for step, score in values["scores"].items()}
    return TrialRecord(values["values"], values["number"], scores, values["end"], values["reason"])


def _identity(params: Params) -> str:
    values = {key: value for key, value in params.to_dict().items() if key not in _IRRELEVANT}
    sweep = params.sweep
    values["sweep"] = [sweep.metric, sweep.steps, sweep.validation_fraction, sweep.early_stopping.model_dump()]
    values["color_alignment"] = params.evaluate.color_alignment
    return hash_values(values)
