"""Put weights into torch.hub's folder, by download or from a local folder."""

from __future__ import annotations

import logging
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.files import atomic_file, is_no_space, sha256_file
from tsdsr.weights.registry import WEIGHTS, Weight
from tsdsr.weights.search import torch_hub

logger = logging.getLogger(__name__)
TIMEOUT_SECONDS = 30


def fetch(name: str) -> Path:
    """Download one file into torch.hub's folder; its digest is checked before it is renamed.

    Raises:
        UserError: the server cannot be reached, or sends another file, or the folder is not writable.
    """
    weight = WEIGHTS[name]
    if weight.extra:
        raise UserError(f"{name}: comes with a package; {weight.cure}")
    logger.info("fetching %s from %s", name, weight.url)
    with _checked(weight, weight.url) as aside:
        try:
            with urllib.request.urlopen(weight.url, timeout=TIMEOUT_SECONDS) as source, aside.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (OSError, HTTPException, ValueError) as error:  # of the network, the protocol, a proxy's address
            if is_no_space(error):
                raise
            raise UserError(
                f"{name}: {weight.url} cannot be fetched ({getattr(error, 'reason', None) or error}); "
                "download it on another machine, then `tsdsr weights import DIR` here"
            ) from None
    return torch_hub() / weight.file


def import_file(name: str, folder: str | Path) -> Path | None:
    """Copy one file of the registry from `folder` or its subfolders into torch.hub's folder.

    Returns:
        Its new path; None if the folder does not contain it.

    Raises:
        UserError: the file has another digest, or torch.hub's folder is not writable.
    """
    weight = WEIGHTS[name]
    source = next((path for path in sorted(Path(folder).rglob(weight.filename)) if path.is_file()), None)
    if source is None:
        return None
    with _checked(weight, str(source)) as aside:
        shutil.copyfile(source, aside)
    return torch_hub() / weight.file


@contextmanager
def _checked(weight: Weight, origin: str) -> Iterator[Path]:
    """Yield a temporary path; if its file's digest is right, it is renamed into torch.hub's folder."""
    try:
        with atomic_file(torch_hub() / weight.file) as aside:
            yield aside
            digest = sha256_file(aside)
            if not digest.startswith(weight.sha256):
                raise UserError(
                    f"{weight.name}: {origin} has sha256 {digest}, expected {weight.sha256}...; the file is not used"
                )
    except OSError as error:
        raise UserError(f"{weight.name}: cannot be put into {torch_hub()}: {error}") from None
