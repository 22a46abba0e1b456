"""The command that this process runs, and the inputs and outputs that dvc.yaml lists for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

# Commands that use the stages' data but are not stages of dvc.yaml. A sweep sends its trials itself.
_BESIDE = {
    "pipeline.sweep": (
        ["data/pairs/train", "data/pairs/manifest.json", "data/latents", "data/teacher"],
        ["reports/sweep"],
    )
}


def command() -> str:
    """`pipeline.distill` in a process that was started with `python -m pipeline.distill`; else empty."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else ""
    return name if name.startswith("pipeline.") else ""


def reads_and_writes(
    module: str, arguments: Sequence[str], dvc: Sequence[str | Path] = ("dvc.yaml", "compress/dvc.yaml")
) -> tuple[list[str], list[str]]:
    """The paths that a command reads and writes; none where no stage runs it.

    Args:
        module: as of `command`. arguments: its own; options fill ${item.variant} and the like, and where several
            stages run one module, a part's name says which.
    """
    if module in _BESIDE:
        return _BESIDE[module]
    for stage in _stages(dvc):
        words = shlex.split(stage["cmd"])
        if module in words and _part(words, module) in (None, *arguments):
            outs = [name for kind in ("outs", "metrics", "plots") for name in _names(stage.get(kind, []))]
            return _filled(_names(stage["deps"]), words, arguments), _filled(outs, words, arguments)
    return [], []


def _stages(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    texts = [Path(path).read_text(encoding="utf-8") for path in paths if Path(path).is_file()]
    return [stage for text in texts for stage in yaml.safe_load(text)["stages"].values()]


def _part(words: Sequence[str], module: str) -> str | None:
    """The first argument of a stage's command after the module, unless it is an option."""
    following = words[words.index(module) + 1 :][:1]
    return None if not following or following[0].startswith("--") else following[0]


def _names(entries: Iterable[Any]) -> list[str]:
    return [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)]


def _filled(names: Iterable[str], words: Sequence[str], arguments: Sequence[str]) -> list[str]:
    given = dict(pairwise(arguments))
    values = {word: given[flag] for flag, word in pairwise(words) if flag.startswith("--") and flag in given}
    result = []
    for name in names:
        for word, value in values.items():
            name = name.replace(word, value)
        result.append(name)
    return result
