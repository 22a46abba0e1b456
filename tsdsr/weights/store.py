"""Bring weights to torch.hub's folder: downloaded from where they are published, or copied from a folder."""

from __future__ import annotations

import logging
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.files import atomic_file, sha256_file
from tsdsr.weights.registry import WEIGHTS, Weight
from tsdsr.weights.search import torch_hub

logger = logging.getLogger(__name__)
TIMEOUT_SECONDS = 30


def fetch(name: str) -> Path:
    """Download one file into torch.hub's folder, checked against its digest before it gets its name.

    Raises:
        UserError: when the server cannot be reached, or sends something else.
    """
    weight = WEIGHTS[name]
    target = torch_hub() / weight.file
    logger.info("fetching %s from %s", name, weight.url)
    with atomic_file(target) as aside:
        try:
            with urllib.request.urlopen(weight.url, timeout=TIMEOUT_SECONDS) as source, aside.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise UserError(
                f"{name}: {weight.url} cannot be fetched ({getattr(error, 'reason', error)}); "
                "download it on another machine, then `tsdsr weights import DIR` here"
            ) from None
        _check(weight, aside, weight.url)
    return target


def import_folder(folder: str | Path) -> dict[str, Path]:
    """Copy every file of the registry that lies in `folder` (at any depth) into torch.hub's folder.

    Returns:
        name -> where it now lies; empty when the folder holds none of them.

    Raises:
        UserError: when there is no such folder, or a file with a registered name has another digest.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the downloaded weights")
    imported = {}
    for name, weight in WEIGHTS.items():
        source = next((path for path in sorted(folder.rglob(weight.filename)) if path.is_file()), None)
        if source is None:
            continue
        target = torch_hub() / weight.file
        with atomic_file(target) as aside:
            shutil.copyfile(source, aside)
            _check(weight, aside, str(source))
        imported[name] = target
    return imported


def _check(weight: Weight, path: Path, origin: str) -> None:
    digest = sha256_file(path)
    if not digest.startswith(weight.sha256):
        raise UserError(
            f"{weight.name}: {origin} has sha256 {digest}, expected {weight.sha256}...; the file is not used"
        )
