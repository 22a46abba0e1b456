"""Search for weights and check their digests, without importing torch and without a connection."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.files import sha256_file
from tsdsr.weights.registry import WEIGHTS, Weight


@dataclass(frozen=True)
class Found:
    """A file that was found.

    Attributes:
        path: the file.
        place: its place in the search.
        sha256: its full digest.
        intact: whether the digest starts with the registry's digits.
    """

    path: Path
    place: str
    sha256: str
    intact: bool


def torch_hub() -> Path:
    """torch.hub's folder, by the rule of torch.hub.get_dir: $TORCH_HOME/hub, else $XDG_CACHE_HOME/torch/hub."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser() / "hub"


def hugging_face_hub() -> Path:
    """The Hugging Face hub's cache: $HF_HUB_CACHE, else $HF_HOME/hub, else below $XDG_CACHE_HOME."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))).expanduser() / "hub"


def places(weight: Weight, folders: Sequence[str | Path] = ()) -> Iterator[tuple[str, Path]]:
    """Every (place, path) that may contain `weight`, in the order of the search.

    Args:
        weight: a row of the registry.
        folders: folders named by the user (params' `evaluate.weights_dir`, a command's --dir); searched first, for the
            bare file name and for torch.hub's layout.
    """
    for folder in folders:
        yield "given folder", Path(folder) / weight.filename
        yield "given folder", Path(folder) / weight.file
    yield "torch cache", torch_hub() / weight.file
    if weight.repository:
        repository = hugging_face_hub() / ("models--" + weight.repository.replace("/", "--"))
        snapshots = repository / "snapshots"
        for snapshot in sorted(snapshots.glob("*")) or [snapshots / "*"]:  # the star shows where one would be found
            yield "Hugging Face cache", snapshot / weight.filename
    if weight.package:
        package, inside = weight.package
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield f"package {package}", Path(spec.origin).parent / inside


def check_folders(folders: Sequence[str | Path]) -> None:
    """Refuse a named folder that does not exist.

    Raises:
        UserError: it does not exist.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder of weights")


def find(name: str, folders: Sequence[str | Path] = ()) -> Found | None:
    """The first intact copy, otherwise the first damaged one, otherwise None."""
    weight = WEIGHTS[name]
    damaged = None
    for place, path in places(weight, folders):
        if not path.is_file():
            continue
        status = path.stat()
        digest = _digest(path, status.st_size, status.st_mtime_ns)
        found = Found(path, place, digest, digest.startswith(weight.sha256))
        if found.intact:
            return found
        damaged = damaged or found
    return damaged


def missing(name: str, folders: Sequence[str | Path] = ()) -> str | None:
    """None if there is an intact copy, otherwise one sentence with the fault and the remedy."""
    weight, found = WEIGHTS[name], find(name, folders)
    if found is None:
        return f"weights {name} ({weight.filename}) are absent: {weight.cure}"
    if not found.intact:
        return (
            f"weights {name} are damaged: {found.path} has sha256 {found.sha256[:8]}..., "
            f"expected {weight.sha256[:8]}...; delete the file and fetch or import it again"
        )
    return None


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified: int) -> str:
    """sha256 of a file, cached by its path, size and modification time."""
    return sha256_file(path)
