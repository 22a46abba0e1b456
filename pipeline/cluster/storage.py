"""The data of a Ray job's stages: in `cluster.storage` of the params, otherwise in the folder of `make cluster`.

A folder, which every host must see, is used in place: `data`, `reports`, `captions` and `.tsdsr` of the job's working
copy are links into it. For a URL every host has its own mirror, and the same names are links into it: a stage's inputs
are fetched before it begins, each file once; its outputs are sent when it has ended, checkpoints at once. Inputs and
outputs are those that dvc.yaml lists.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.tree_store import TreeStore
from pipeline.process import dvc_yaml
from pipeline.stages import lineage
from pipeline.tracking import provenance
from tsdsr.config import Params
from tsdsr.errors import UserError

VARIABLE = "TSDSR_STORAGE"  # the folder of the cluster's head (pipeline/cluster/__main__.py)
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in jobs
SHARED = ("data", "reports", ".tsdsr", "captions")


@dataclass(frozen=True)
class Place:
    """The folder, and possibly URL, of this process's data.

    Attributes:
        root: contains data, reports and so on; on the host that called `at`.
        url: `root` mirrors it; None if `root` is the storage itself.
    """

    root: Path
    url: str | None = None

    @classmethod
    def at(cls, root: str | Path, url: str | None) -> Place:
        """The place on this host: a mirror of the URL, or `root` if there is none."""
        return cls(mirror(url) if url else Path(root).resolve(), url)

    def moved(self, path: Path, root: str | Path) -> Path:
        """The path on this host of a file below the mirror's root on another host."""
        return self.root / path.relative_to(root) if self.url else path

    def pull(self, paths: Iterable[str | Path]) -> None:
        """Fetch files that are missing here or have changed."""
        for name in self._names(paths):
            self._store().pull(self.root, name)

    def pull_each(self, folder: str | Path) -> None:
        """Fetch the trees below a folder; other files in it stay."""
        for name in self._names([folder]):
            self.pull(self._store().names(name))

    def push(self, paths: Iterable[str | Path]) -> None:
        """Send the trees that exist here."""
        for name in self._names(paths):
            if (self.root / name).exists():
                self._store().push(self.root, name)

    def push_each(self, folder: str | Path) -> None:
        """Send each entry of a folder (checkpoints, trials) as a separate tree."""
        for name in self._names([folder]):
            self._store().push_each(self.root, name)

    def holds_any(self, folder: str | Path) -> bool:
        """Whether the URL has a tree below a folder."""
        return any(self._store().names(name) for name in self._names([folder]))

    def _store(self) -> TreeStore:
        return TreeStore(self.url or "")

    def _names(self, paths: Iterable[str | Path]) -> list[str]:
        """Names in the store, relative to the root; empty if the root is the storage itself."""
        return [str(Path(self.root, path).relative_to(self.root)) for path in paths] if self.url else []


def here(params: Params, environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process: the storage in a job, otherwise the working directory."""
    storage = (params.cluster.storage or environment.get(VARIABLE)) if JOB_VARIABLE in environment else None
    return Place.at(storage or Path.cwd(), storage if storage and "://" in storage else None)


def mirror(url: str) -> Path:
    """This host's mirror of a URL, below $XDG_CACHE_HOME or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tsdsr" / "mirrors" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextmanager
def workplace(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """In a job: fetch the inputs of the stage that `arguments` (sys.argv) start, and send its outputs.

    Elsewhere it does nothing.
    """
    place = _of_job(sys.argv[1:] if arguments is None else arguments, environment)
    if place is None:
        yield
        return
    with _linked(place.root):
        reads, writes = needs(dvc_yaml.command(), sys.argv[1:] if arguments is None else arguments)
        place.pull(reads)
        try:
            yield
        except SystemExit as end:
            if end.code in (0, 1):  # evaluate exits with 1 if its results are partial
                place.push(writes)
            raise
        place.push(writes)


def needs(module: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of the trees that a command reads and writes.

    A name has at most three parts: the code reads more of `data/pairs/train` than dvc.yaml lists.
    """
    reads, writes = dvc_yaml.reads_and_writes(module, arguments)
    return _trees(reads), _trees(writes)


def _trees(names: Iterable[str]) -> list[str]:
    parts = [Path(name).parts[:3] for name in names]
    trees = {"/".join(part) for part in parts if part[0] in SHARED}
    trees |= {f"reports/runs/{Path(tree).name}" for tree in trees if tree.startswith("reports/scores/")}
    if any(tree.startswith("data/pairs/") for tree in trees):
        trees |= {"data/pairs/manifest.json", f"data/pairs/{lineage.RECORD}"}
    return sorted(trees)


def _of_job(arguments: Sequence[str], environment: Mapping[str, str]) -> Place | None:
    """The place of a job, before its working copy is linked to it."""
    if JOB_VARIABLE not in environment:
        return None
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--params", default="params.yaml")
    path = Path(parser.parse_known_args(arguments)[0].params)
    if not path.is_file():
        return None
    params = Params.load(path)
    place = here(params, environment)
    if not place.root.is_dir():
        name = "cluster.storage" if params.cluster.storage else VARIABLE
        raise UserError(f"{name} {place.root}: no such folder on this host; every host must see it")
    if params.cluster.storage and not place.url:
        os.environ[provenance.ROOT_VARIABLE] = str(place.root)  # of the local tracking store
    return None if place.root == Path.cwd() else place


@contextmanager
def _linked(root: Path) -> Iterator[None]:
    """Within the block, `data`, `reports` ... of the working directory are links into `root`.

    Jobs with equal files share one working copy, although their params may name different storages.
    """
    with Path(".storage").open("a") as lock:
        if not all(_leads_to(name, root) for name in SHARED):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{Path.cwd()}: a job with another storage is running in this working copy; wait for it to end"
                ) from None
            for name in SHARED:
                (root / name).mkdir(parents=True, exist_ok=True)
                if Path(name).is_symlink():
                    Path(name).unlink()
                if not Path(name).exists():
                    Path(name).symlink_to((root / name).resolve(), target_is_directory=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _leads_to(name: str, root: Path) -> bool:
    return Path(name).exists() and Path(name).resolve() == (root / name).resolve()
