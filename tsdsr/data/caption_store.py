"""A store of a model's captions, one text file per photograph, so that each is computed once."""

from __future__ import annotations

import os
from pathlib import Path

from tsdsr import files
from tsdsr.config import CaptionsConfig
from tsdsr.data.captioner import Captioner
from tsdsr.data.photographs import PhotographRef
from tsdsr.data.reading import BadPhotograph, read_photograph


class CaptionStore:
    """The captions of one model with one prompt."""

    def __init__(self, base: Path, config: CaptionsConfig) -> None:
        asked = [config.model, config.prompt, config.max_tokens, _stamps(Path(str(config.model)))]
        self.root = base.absolute() / files.sha256_json(asked)[:32]

    def get(self, ref: PhotographRef) -> str | None:
        try:
            return self._path(ref).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def put(self, ref: PhotographRef, caption: str) -> None:
        files.write_text(self._path(ref), caption + "\n")

    def _path(self, ref: PhotographRef) -> Path:
        return self.root / f"{files.sha256_json([os.fsencode(ref.path.absolute()).hex(), _stamps(ref.path)])[:32]}.txt"


def caption_batch(refs: list[PhotographRef], captioner: Captioner, store: CaptionStore, max_megapixels: float) -> None:
    """Caption a batch of photographs and store the captions; unreadable ones get none."""
    readable, pixels = [], []
    for ref in refs:
        try:
            pixels.append(read_photograph(ref.path, max_megapixels))
            readable.append(ref)
        except BadPhotograph:
            continue  # the reason is reported when its pairs are built
    for ref, caption in zip(readable, captioner(pixels) if pixels else [], strict=True):
        store.put(ref, caption)


def _stamps(path: Path) -> list[list[int | str]]:
    """Name, size and time of a file or of each file in a folder; nothing for a hub id."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in paths if one.is_file()]
