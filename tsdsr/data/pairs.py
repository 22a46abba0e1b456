"""A folder of pairs: `hq/<id>.png`, `lq/<id>.png`, `captions/<id>.txt`."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tsdsr import files
from tsdsr.data.captions import read_caption
from tsdsr.errors import UserError

# The fastest of the settings tried whose files are within a few percent of the smallest. A change alters the bytes.
PNG_COMPRESS_LEVEL = 4
MOST_NAMED = 10

log = logging.getLogger(__name__)


def pair_id(photograph_id: str, crop_index: int) -> str:
    """The name of both halves of a pair."""
    return f"{photograph_id}-c{crop_index:03d}"


def split_pair_id(pair: str) -> tuple[str, int]:
    """The photograph and the crop of a name from `pair_id`.

    Raises:
        ValueError: the name is not from `pair_id`, as that of a ready-made pair.
    """
    match = re.fullmatch(r"(.+)-c(\d{3,})", pair)
    if match is None:
        raise ValueError(f"{pair} is not the name of a crop of a photograph")
    return match[1], int(match[2])


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3) completely or not at all; equal pixels give equal bytes."""
    with files.atomic_file(path) as aside:
        Image.fromarray(pixels).save(aside, format="PNG", compress_level=PNG_COMPRESS_LEVEL)


class PairFolder:
    """The pairs of one split; opening it checks that every pair has both halves.

    Args:
        root: contains `hq` and `lq`, and `captions` if there are any.
        edits: a folder of hand-corrected captions, which may be absent. By default the one that the pairs were made
            with (captions.edits in the manifest beside `root`), relative to the working folder.

    Raises:
        UserError: a side is missing, a pair lacks one half, or there is no pair.
    """

    def __init__(self, root: str | Path, edits: str | Path | None = None) -> None:
        self.root = Path(root)
        edits = edits or _edits_of(self.root.parent / "manifest.json")
        self.edits = Path(edits) if edits else None
        hq, lq = (self._names(side) for side in ("hq", "lq"))
        lonely = [f"lq/{name}.png is missing" for name in sorted(hq - lq)]
        lonely += [f"hq/{name}.png is missing" for name in sorted(lq - hq)]
        if lonely:
            raise UserError(f"{self.root}: {len(lonely)} pairs have one half only: {_some(lonely)}")
        if not hq:
            raise UserError(f"{self.root}: contains no pairs; run the stage prepare-degradations")
        self.ids: list[str] = sorted(hq)
        self._name_stray_edits()

    def __len__(self) -> int:
        return len(self.ids)

    def hq_path(self, pair: str) -> Path:
        return self.root / "hq" / f"{pair}.png"

    def lq_path(self, pair: str) -> Path:
        return self.root / "lq" / f"{pair}.png"

    def caption(self, pair: str) -> str:
        """One line of text: the correction of this pair, otherwise that of its photograph, otherwise the original
        caption."""
        places = [self.root / "captions" / f"{pair}.txt"]
        if self.edits:
            places = [self.edits / f"{pair}.txt", self.edits / f"{_photograph(pair)}.txt", *places]
        return next((text for place in places if (text := read_caption(place))), "")

    def _name_stray_edits(self) -> None:
        """Warn about corrections whose name matches no pair or photograph. One folder has those of both splits."""
        if self.edits is None:
            return
        pairs = {path.stem for path in self.root.parent.glob("*/hq/*.png")}
        known = pairs | {_photograph(pair) for pair in pairs}
        stray = sorted(path.name for path in self.edits.glob("*.txt") if path.stem not in known)
        if stray:
            log.warning("%s: no pair and no photograph has the name of %s", self.edits, _some(stray))

    def _names(self, side: str) -> set[str]:
        folder = self.root / side
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; run the stage prepare-degradations")
        return {path.stem for path in folder.glob("*.png") if not path.name.startswith(".")}


def _edits_of(manifest: Path) -> str | None:
    return files.read_json(manifest).get("edits") if manifest.is_file() else None


def _photograph(pair: str) -> str:
    """The photograph of a pair; a ready-made pair is its own."""
    try:
        return split_pair_id(pair)[0]
    except ValueError:
        return pair


def _some(lines: list[str]) -> str:
    more = f", and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
    return ", ".join(lines[:MOST_NAMED]) + more
