"""Overlays on params.yaml: other sizes and recipes.

    python -m pipeline.params apply params/sd3-medium.yaml params/paper.yaml   # merge them into params.yaml, in order
    python -m pipeline.params flags params/smoke.yaml | xargs dvc exp run      # an experiment with them

An overlay is a part of params.yaml; mappings merge, all else replaces. The result is validated before anything is
written, and the comments of params.yaml stay.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.stages import stage
from tsdsr import files
from tsdsr.config import Params, merge, read_sections, without_former_recipe

logger = logging.getLogger(__name__)


def read_overlays(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Read overlays and merge them, later ones winning.

    Raises:
        UserError: a file is missing or is not a mapping of sections.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_sections(path, "no such overlay; the project's overlays are in params/"))
    return merged


def apply(params: str | Path, overlay: Mapping[str, Any], origin: str = "overlay") -> None:
    """Merge an overlay into a params file, keeping its comments and order.

    Raises:
        UserError: the result would not be valid; the file is unchanged.
    """
    from ruamel.yaml import YAML

    Params.load(params).overlay(overlay, origin)
    loader = YAML()
    loader.preserve_quotes = True
    loader.width = 4096  # keep long lines
    loader.indent(mapping=2, sequence=4, offset=2)
    loader.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, "null"))
    document = loader.load(Path(params).read_text(encoding="utf-8"))
    _remove_in_place(document, without_former_recipe(document, overlay))
    _merge_in_place(document, overlay)
    text = io.StringIO()
    loader.dump(document, text)
    files.write_text(params, text.getvalue())


_NULL = "tag:yaml.org,2002:null"


def flags(params: str | Path, overlay: Mapping[str, Any], origin: str = "overlay") -> list[str]:
    """The overlay as arguments of `dvc exp run`: `-S key=value`, and `+key=value` for keys that are not there yet."""
    base = Params.load(params)
    base.overlay(overlay, origin)
    kept = without_former_recipe(base.to_dict(), overlay)
    items = [*_removals(base.to_dict(), kept, ""), *_overrides(overlay, kept, "")]
    return [argument for item in items for argument in ("-S", item)]


def _remove_in_place(document: Any, kept: Mapping[str, Any]) -> None:
    """Drop the keys that are not kept; lists become the kept ones."""
    for key in list(document):
        if key not in kept:
            del document[key]
        elif isinstance(document[key], Mapping):
            _remove_in_place(document[key], kept[key])
        elif isinstance(document[key], list) and len(document[key]) != len(kept[key]):
            document[key] = _in_flow_style(list(kept[key]))


def _removals(base: Mapping[str, Any], kept: Mapping[str, Any], prefix: str) -> list[str]:
    """The removals of `_remove_in_place` as overrides: `~key`, and `key=[...]` for a list that has become shorter."""
    items: list[str] = []
    for key, value in base.items():
        if key not in kept:
            items.append(f"~{prefix}{key}")
        elif isinstance(value, Mapping):
            items += _removals(value, kept[key], f"{prefix}{key}.")
        elif value != kept[key]:
            items.append(f"{prefix}{key}={_hydra(kept[key])}")
    return items


def _merge_in_place(document: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), Mapping):
            _merge_in_place(document[key], value)
        else:
            document[key] = _in_flow_style(value)


def _in_flow_style(value: Any) -> Any:
    """Lists as `[a, b]` on one line, as params.yaml has them."""
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _overrides(changes: Mapping[str, Any], base: Any, prefix: str) -> list[str]:
    items: list[str] = []
    for key, value in changes.items():
        known = isinstance(base, Mapping) and key in base
        if isinstance(value, Mapping) and known and isinstance(base[key], Mapping) and value:
            items += _overrides(value, base[key], f"{prefix}{key}.")
        else:
            items.append(f"{'' if known else '+'}{prefix}{key}={_hydra(value)}")
    return items


def _hydra(value: Any) -> str:
    """A value in Hydra's override grammar, as for `dvc exp run -S`."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_hydra(item) for item in value) + "]"
    if isinstance(value, str) and re.fullmatch(r"(?!(true|false|null|nan|inf)$)[a-z_][\w./-]*", value, re.IGNORECASE):
        return value
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("apply", "merge overlays into the params file"), ("flags", "print -S flags")):
        command = commands.add_parser(name, help=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("overlays", nargs="+", metavar="OVERLAY.yaml")
    given = parser.parse_args(arguments)
    overlay, origin = read_overlays(given.overlays), " + ".join(given.overlays)
    if given.command == "apply":
        apply(given.params, overlay, origin)
        logger.info("%s now holds %s", given.params, origin)
    else:
        print(shlex.join(flags(given.params, overlay, origin)))  # noqa: T201 - its output is the command line


if __name__ == "__main__":
    stage.run(main)
