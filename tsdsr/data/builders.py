"""Build `data/pairs`: one photograph at a time, in any order and any number of processes, with the same bytes."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Outcome:
    """What became of a photograph: its pairs, as rows of the manifest, or the reason why it gave none."""

    photograph: str
    split: Split
    pairs: tuple[dict[str, Any], ...] = ()
    reason: str | None = None


def build_photograph(ref: PhotographRef, split: Split, params: Params, root: Path) -> Outcome:
    """Write all pairs of one photograph under `root`, a folder laid out like data/pairs.

    A photograph that cannot serve is an outcome, not an error.
    """
    try:
        photograph = read_photograph(ref.path, params.prepare.max_megapixels)
        _refuse_small(ref, photograph, split, params)
        caption = caption_of(ref, params.captions)
    except BadPhotograph as error:
        return Outcome(ref.name, split, reason=error.reason)
    make = _make_train if split == "train" else _make_test
    folder = root / split
    rows = []
    for crop in range(getattr(params.data.crops_per_photograph, split)):
        name = pair_id(ref.id, crop)
        box, lq, hq = make(photograph, ref.id, crop, params)
        write_png(folder / "hq" / f"{name}.png", hq)
        write_png(folder / "lq" / f"{name}.png", lq)
        files.write_text(folder / "captions" / f"{name}.txt", caption + "\n")
        rows.append({"id": name, "split": split, "photograph": ref.name, "box": asdict(box)})
    return Outcome(ref.name, split, tuple(rows))


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
            f"data.source: {len(skipped)} of {len(outcomes)} photographs in {params.data.source} are unusable, more "
            f"than prepare.max_bad_fraction {allowed:g} allows; each is named above, the first is {first}: {reason}"
        )
    rows = sorted((row for outcome in outcomes for row in outcome.pairs), key=lambda row: row["id"])
    for split in ("train", "test"):
        if not any(row["split"] == split for row in rows):
            raise UserError(f"data.source: no usable {split} photograph in {params.data.source}; add photographs")
    files.write_json(
        root / "manifest.json",
        {
            "source": params.data.source,
            "scale": params.data.scale,
            "photographs": len(outcomes),
            "pairs": rows,
            "skipped": [{"photograph": name, "reason": reason} for name, reason in skipped],
        },
    )


def _refuse_small(ref: PhotographRef, photograph: np.ndarray, split: Split, params: Params) -> None:
    key = "crop_size" if split == "train" else "test_crop_size"
    side, (height, width) = getattr(params.data, key), photograph.shape[:2]
    if min(height, width) < side:
        raise BadPhotograph(ref.path, f"{width}x{height} px, smaller than the {split} crop (data.{key} {side})")


def _make_train(
    photograph: np.ndarray, photograph_id: str, crop: int, params: Params
) -> tuple[Box, np.ndarray, np.ndarray]:
    box = synthesis.train_box(photograph.shape[:2], photograph_id, crop, 0, params.seed, params)
    return box, *synthesis.make_pair(photograph, photograph_id, crop, 0, params.seed, params)


def _make_test(
    photograph: np.ndarray, photograph_id: str, crop: int, params: Params
) -> tuple[Box, np.ndarray, np.ndarray]:
    box = synthesis.fixed_test_boxes(photograph.shape[:2], params)[crop]
    return box, *synthesis.make_test_pair(photograph, photograph_id, crop, params.seed, params)
