"""The colour photographs in installed dependencies: real input without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from tsdsr.errors import UserError


def bundled_photographs() -> list[dict[str, Any]]:
    """Every photograph of bundled.yaml, in the order of ids: its id, path, name, caption and fixed split.

    Raises:
        UserError: a package is not installed, or has no such file in its installed version.
    """
    rows = yaml.safe_load(Path(__file__).with_name("bundled.yaml").read_text(encoding="utf-8"))
    found = [
        {
            "id": row["id"],
            "path": _locate(row["package"], row["file"]),
            "name": f"{row['package']}/{row['file']}",
            "caption": row["caption"],
            "split": row["split"],
        }
        for row in rows
    ]
    return sorted(found, key=lambda photograph: photograph["id"])


def _locate(package: str, file: str) -> Path:
    """The file's path, without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    raise UserError(
        f"data.source: the photograph {file} of the Python package {package} is not installed; "
        "run `make setup`, or set data.source to a folder of photographs"
    )
