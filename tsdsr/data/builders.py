"""Build `data/pairs` one photograph at a time, with the same bytes in any order and any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsdsr import files
from tsdsr.config import Params
from tsdsr.data import synthesis
from tsdsr.data.captions import caption_of
from tsdsr.data.crops import Box
from tsdsr.data.pairs import pair_id, write_png
from tsdsr.data.photographs import PhotographRef, Split
from tsdsr.data.reading import BadPhotograph, read_photograph
from tsdsr.errors import UserError

# A pair's files: folder -> suffix.
PAIR_FILES = {"hq": ".png", "lq": ".png", "captions": ".txt"}


@dataclass(frozen=True)
class Task:
    """One photograph to make pairs of; or, if `lq` is given, one ready-made pair with the photograph as HQ side."""

    ref: PhotographRef
    split: Split
    lq: Path | None = None

    def to_json(self) -> str:
        """As JSON for another process; it preserves file names that are not UTF-8."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Task:
        values = json.loads(text)
        ref = values["ref"]
        for name in ("path", "caption_file"):
            ref[name] = ref[name] and Path(ref[name])
        return cls(PhotographRef(**ref), values["split"], values["lq"] and Path(values["lq"]))


@dataclass(frozen=True)
class Outcome:
    """The result of a task: its pairs, as rows of the manifest, or the reason why there are none."""

    photograph: str
    split: Split
    pairs: tuple[dict[str, Any], ...] = ()
    reason: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        values = json.loads(text)
        return cls(**{**values, "pairs": tuple(values["pairs"])})


def build(task: Task, params: Params, root: Path) -> Outcome:
    """Write the pairs of one task under `root`, a folder laid out like data/pairs.

    An unusable photograph is an outcome, not an error.

    Raises:
        UserError: a ready-made pair is unusable, since a test set must be complete.
    """
    try:
        photograph = read_photograph(task.ref.path, params.prepare.max_megapixels)
        caption = caption_of(task.ref, params.captions)
        if task.lq:
            return _build_ready_made(task, task.lq, photograph, caption, params, root)
        _refuse_small(task, photograph, params)
    except BadPhotograph as error:
        if task.lq:
            raise
        return Outcome(task.ref.name, task.split, reason=error.reason)
    rows = []
    for crop, box in enumerate(_boxes(task, photograph.shape[:2], params)):
        lq, hq = _make(task, photograph, crop, box, params)
        name = pair_id(task.ref.id, crop)
        _write(root / task.split, name, hq, lq, caption)
        rows.append({"id": name, "split": task.split, "photograph": task.ref.name, "box": asdict(box)})
    return Outcome(task.ref.name, task.split, tuple(rows))


def write_manifest(root: Path, outcomes: Iterable[Outcome], params: Params) -> None:
    """Write manifest.json: the pairs by id, and each photograph that was skipped with the reason.

    Raises:
        UserError: more photographs were bad than `prepare.max_bad_fraction` allows, or a split is left without pairs.
    """
    outcomes = list(outcomes)
    skipped = sorted((outcome.photograph, outcome.reason) for outcome in outcomes if outcome.reason is not None)
    allowed = params.prepare.max_bad_fraction
    if len(skipped) > allowed * len(outcomes):
        first, reason = skipped[0]
        raise UserError(
            f"data.source: {len(skipped)} of {len(outcomes)} photographs are unusable, more than "
            f"prepare.max_bad_fraction {allowed:g} allows; each is named above, the first is {first}: {reason}"
        )
    rows = sorted((row for outcome in outcomes for row in outcome.pairs), key=lambda row: (row["split"], row["id"]))
    for split in ("train", "test"):
        if not any(row["split"] == split for row in rows):
            raise UserError(f"data.source: no usable photograph is left for the {split} split; add photographs")
    files.write_json(
        root / "manifest.json",
        {
            "data": params.to_dict()["data"],
            "edits": params.captions.edits,
            "photographs": len(outcomes),
            "pairs": rows,
            "skipped": [{"photograph": name, "reason": reason} for name, reason in skipped],
        },
    )


def _boxes(task: Task, size: tuple[int, int], params: Params) -> list[Box]:
    if task.split == "test":
        return synthesis.TEST_BOXES[params.data.test_set](size, task.ref.id, params)
    crops = range(params.data.crops_per_photograph.train)
    return [synthesis.train_box(size, task.ref.id, crop, params.seed, params) for crop in crops]


def _make(task: Task, photograph: np.ndarray, crop: int, box: Box, params: Params) -> tuple[np.ndarray, np.ndarray]:
    if task.split == "test":
        return synthesis.make_test_pair(photograph, task.ref.id, crop, box, params.seed, params)
    return synthesis.make_pair(photograph, task.ref.id, crop, 0, params.seed, params)


def _build_ready_made(task: Task, lq_path: Path, hq: np.ndarray, caption: str, params: Params, root: Path) -> Outcome:
    """Copy a ready-made pair unchanged, as 8-bit RGB PNG."""
    lq = read_photograph(lq_path, params.prepare.max_megapixels)
    if hq.shape[:2] != (lq.shape[0] * params.data.scale, lq.shape[1] * params.data.scale):
        raise UserError(
            f"data.test_source: {task.ref.path} is {hq.shape[1]}x{hq.shape[0]} and {lq_path} is "
            f"{lq.shape[1]}x{lq.shape[0]} px, which is not x{params.data.scale} (data.scale)"
        )
    _write(root / task.split, task.ref.id, hq, lq, caption)
    row = {"id": task.ref.id, "split": task.split, "photograph": task.ref.name, "box": None}
    return Outcome(task.ref.name, task.split, (row,))


def _write(folder: Path, name: str, hq: np.ndarray, lq: np.ndarray, caption: str) -> None:
    write_png(folder / "hq" / f"{name}.png", hq)
    write_png(folder / "lq" / f"{name}.png", lq)
    files.write_text(folder / "captions" / f"{name}.txt", caption + "\n")


def _refuse_small(task: Task, photograph: np.ndarray, params: Params) -> None:
    key = "crop_size" if task.split == "train" else "test_crop_size"
    side, (height, width) = getattr(params.data, key), photograph.shape[:2]
    if min(height, width) < side:
        raise BadPhotograph(
            task.ref.path, f"{width}x{height} px, smaller than the {task.split} crop (data.{key} {side})"
        )
