"""Trees of files under a URL that fsspec or pyarrow opens: complete or absent, each file checked by its sha256.

    <url>/data/latents/...               the files, under their own names
    <url>/.manifests/data/latents.json   written last: the path, size and sha256 of every file of the tree

An object store has no rename, so the manifest marks a complete tree: it is removed before the first file changes and
written after the last. A tree without a manifest counts as absent. A name is the path of a directory or file relative
to the root of the repository.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pipeline.process.locks import locked
from tsdsr import files
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

MANIFESTS, SUMS = ".manifests", ".sums.json"
TRANSFERS = 16  # concurrent transfers
Entry = dict[str, Any]  # bytes, sha256


class TreeStore:
    """Pushes and pulls trees between a local root and a URL; `file://`, `s3://`, `gs://`, `abfs://` ..."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, base = _filesystem(url)
        self._base = base.rstrip("/")

    def push(self, root: Path, name: str) -> None:
        """Make the tree `name` in the store equal to that of `root`; files that are equal are not sent again.

        Raises:
            UserError: it is not below `root`, or is part of another tree in the store.
        """
        with locked(root):
            self._push(root, name)

    def push_each(self, root: Path, folder: str) -> None:
        """Push each entry of a folder as a separate tree, then remove the trees whose entry is gone."""
        with locked(root):
            local = root / folder
            entries = sorted(path.name for path in local.iterdir()) if local.is_dir() else []
            names = {f"{folder}/{entry}" for entry in entries if not entry.startswith(".")}
            for name in sorted(names):
                self._push(root, name)
            for gone in set(self.names(folder)) - names:
                self._remove(gone)

    def pull(self, root: Path, name: str) -> bool:
        """Make `root`/`name` equal to the store's: a tree, a part of a tree, or several trees.

        Only files whose sha256 differs are fetched. Returns whether the store has any of it.

        Raises:
            UserError: a file differs from its manifest.
        """
        with locked(root):
            wanted = self._wanted(name)
            sums = _Sums(root)
            missing = [path for path, entry in wanted.items() if sums.of(root / path) != entry]
            if missing:
                logger.info("fetching %d of %d files of %s from %s", len(missing), len(wanted), name, self.url)
            self._each(lambda path: self._fetch(root, path, wanted[path]), missing)
            for path in _files_below(root / name):
                if path.relative_to(root).as_posix() not in wanted:
                    path.unlink()
            _drop_empty(root / name)
            sums.learn({path: wanted[path] for path in missing})
            sums.save()
            return bool(wanted)

    def names(self, below: str) -> list[str]:
        """The names of the complete trees below a name."""
        folder = f"{self._base}/{MANIFESTS}/{below}"
        self._files.invalidate_cache()
        found = self._files.find(folder) if self._files.isdir(folder) else []
        start = len(f"{self._base}/{MANIFESTS}/")
        return sorted(path[start:].removesuffix(".json") for path in found if path.endswith(".json"))

    def _push(self, root: Path, name: str) -> None:
        local = root / name
        if not local.exists():
            raise UserError(f"{local}: not there, so it cannot be put into {self.url}")
        for above in _above(name):
            if self._manifest(above):
                raise UserError(f"{name} is part of {above} in {self.url}; push {above} as a whole")
        sums = _Sums(root)
        entries = {path.relative_to(root).as_posix(): sums.of(path) for path in _files_below(local)}
        sums.save()
        former = self._manifest(name)
        if former == entries:
            return
        inner = self.names(name)
        before = {path: entry for tree in (name, *inner) for path, entry in self._manifest(tree).items()}
        for tree in (name, *inner):
            self._delete(self._manifest_path(tree))
        sent = [path for path, entry in entries.items() if before.get(path) != entry]
        logger.info("sending %d of %d files of %s to %s", len(sent), len(entries), name, self.url)
        self._each(lambda path: self._send(root / path, path), sent)
        self._each(lambda path: self._delete(f"{self._base}/{path}"), set(before) - set(entries))
        manifest = self._manifest_path(name)
        self._files.makedirs(str(PurePosixPath(manifest).parent), exist_ok=True)
        self._files.pipe_file(manifest, json.dumps({"files": entries}, sort_keys=True).encode())

    def _remove(self, name: str) -> None:
        entries = self._manifest(name)
        self._delete(self._manifest_path(name))
        self._each(lambda path: self._delete(f"{self._base}/{path}"), entries)

    def _wanted(self, name: str) -> dict[str, Entry]:
        """Every file at or below `name`: of its own tree, of the tree that contains it, and of the trees below it."""
        trees = [*_above(name), name, *self.names(name)]
        found = {path: entry for tree in trees for path, entry in self._manifest(tree).items()}
        return {path: entry for path, entry in found.items() if path == name or path.startswith(f"{name}/")}

    def _manifest(self, name: str) -> dict[str, Entry]:
        """Path -> entry; empty if there is no complete tree of this name."""
        try:
            found: dict[str, Entry] = json.loads(self._files.cat_file(self._manifest_path(name)))["files"]
        except (FileNotFoundError, ValueError):  # absent, or truncated on a store whose writes are not atomic
            return {}
        return found

    def _manifest_path(self, name: str) -> str:
        return f"{self._base}/{MANIFESTS}/{name}.json"

    def _fetch(self, root: Path, path: str, entry: Entry) -> None:
        with files.atomic_file(root / path) as aside:
            try:
                self._files.get_file(f"{self._base}/{path}", str(aside))
            except FileNotFoundError:
                raise UserError(
                    f"{self.url}: {path} is missing; another job may be writing it; otherwise push it again"
                ) from None
            if files.sha256_file(aside) != entry["sha256"]:
                raise UserError(f"{self.url}: {path} does not match its sha256; push it again")

    def _send(self, source: Path, path: str) -> None:
        target = f"{self._base}/{path}"
        self._files.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        self._files.put_file(str(source), target)

    def _delete(self, path: str) -> None:
        if self._files.exists(path):
            self._files.rm_file(path)

    @staticmethod
    def _each(work: Any, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for done in [pool.submit(work, path) for path in paths]:
                done.result()


class _Sums:
    """A cache of sha256 by size and modification time."""

    def __init__(self, root: Path) -> None:
        self._root, self._path = root, root / SUMS
        try:
            self._known: dict[str, list[Any]] = files.read_json(self._path)
        except (FileNotFoundError, ValueError):
            self._known = {}

    def of(self, path: Path) -> Entry | None:
        """A file's entry; None if there is no file."""
        if not path.is_file():
            return None
        size, stamp = path.stat().st_size, path.stat().st_mtime_ns
        name = path.relative_to(self._root).as_posix()
        known = self._known.get(name)
        if known is None or known[:2] != [size, stamp]:
            known = self._known[name] = [size, stamp, files.sha256_file(path)]
        return {"bytes": size, "sha256": known[2]}

    def learn(self, entries: dict[str, Entry]) -> None:
        """Record files that have just been fetched and checked."""
        for name, entry in entries.items():
            about = (self._root / name).stat()
            self._known[name] = [about.st_size, about.st_mtime_ns, entry["sha256"]]

    def save(self) -> None:
        present = {name: known for name, known in self._known.items() if (self._root / name).exists()}
        files.write_json(self._path, present)


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's if a package for the protocol is installed (s3fs, gcsfs ...), otherwise pyarrow's (s3, gs, hdfs)."""
    import fsspec
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as reason:
        try:
            arrow, path = FileSystem.from_uri(quote(url, safe="/:?&=#%@+,;~"))  # it takes no spaces, fsspec does
        except (ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"cluster.storage {url}: fsspec says {reason}; pyarrow says {error}") from None
        filesystem = ArrowFSWrapper(arrow)
    return filesystem, path


def _above(name: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(name).parents if parent.name]


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(found for found in path.rglob("*") if found.is_file())


def _drop_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
