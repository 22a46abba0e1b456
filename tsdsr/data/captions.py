"""Where a photograph's caption comes from."""

from __future__ import annotations

from pathlib import Path

from tsdsr.config import CaptionsConfig
from tsdsr.data.photographs import PhotographRef
from tsdsr.data.reading import BadPhotograph


def caption_of(ref: PhotographRef, config: CaptionsConfig) -> str:
    """The caption of one photograph as a single line.

    `sidecar` takes the source's own caption, else `<name>.txt` beside the photograph, else `captions.constant`.

    Raises:
        BadPhotograph: its caption file is no UTF-8 text.
    """
    if config.source == "constant":
        return config.constant
    return ref.caption or read_caption(ref.path.with_suffix(".txt")) or config.constant


def read_caption(path: Path) -> str:
    """The text of a caption file as one line; empty when there is no such file, or nothing in it."""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadPhotograph(path, f"its caption file {path.name} cannot be read as UTF-8 text: {error}") from None
