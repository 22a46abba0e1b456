"""The sources of a photograph's caption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tsdsr.config import CaptionsConfig
from tsdsr.data.photographs import PhotographRef
from tsdsr.data.reading import BadPhotograph


def caption_of(ref: PhotographRef, config: CaptionsConfig) -> str:
    """The caption of one photograph as a single line.

    Raises:
        BadPhotograph: its caption file is not UTF-8 text.
    """
    return SOURCES[config.source](ref) or config.constant


def read_caption(path: Path) -> str:
    """The text of a caption file as one line; empty if the file is absent or empty."""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadPhotograph(path, f"its caption file {path.name} cannot be read as UTF-8 text: {error}") from None


def _sidecar(ref: PhotographRef) -> str:
    return ref.caption or (read_caption(ref.caption_file) if ref.caption_file else "")


def _constant(ref: PhotographRef) -> str:
    return ""


def _model(ref: PhotographRef) -> str:
    return ref.caption or ""  # set by tsdsr.data.captioner


# captions.source -> a function that returns a photograph's caption, or nothing for captions.constant.
SOURCES: dict[str, Callable[[PhotographRef], str]] = {"sidecar": _sidecar, "constant": _constant, "model": _model}
