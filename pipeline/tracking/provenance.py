"""The provenance of a result: the commit, the code, the params, its stage's inputs and outputs, the hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline.process import dvc_yaml
from tsdsr import files, machine
from tsdsr.config import Params

COMMIT_VARIABLE = "TSDSR_GIT_COMMIT"  # for processes without the repository, such as a Ray job
ROOT_VARIABLE = "TSDSR_ROOT"
STAGE_VARIABLE = "TSDSR_STAGE"

# Written by the pipeline itself, or hashed and logged separately.
_NOT_CODE = ("dvc.lock", "reports", "params.yaml")


def root() -> Path:
    """The repository of this process, with its store and `.tsdsr`.

    It is the working directory, except for DVC's queued experiments, which run in a copy below `.dvc/tmp/exps`: for
    these it is the repository that contains the copy, so that their runs are kept.
    """
    directory = Path(os.environ.get(ROOT_VARIABLE) or Path.cwd()).resolve()
    parts = directory.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return directory


def git_commit() -> str:
    """The commit that is checked out (40 hex digits), or `no commit` outside of a git repository."""
    return os.environ.get(COMMIT_VARIABLE) or _git("rev-parse", "HEAD") or "no commit"


def git_dirty() -> bool:
    """Whether tracked files have uncommitted changes, other than params.yaml and a run's outputs."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *[f":!{name}" for name in _NOT_CODE])
    return bool(changed)


@cache
def code_hash() -> str:
    """sha256 over the modules of `tsdsr` and `pipeline`: distinguishes runs of one commit with different edits."""
    digest = hashlib.sha256()
    package_root = Path(__file__).resolve().parents[2]
    for path in sorted(path for name in ("tsdsr", "pipeline") for path in (package_root / name).rglob("*.py")):
        digest.update(path.relative_to(package_root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def params_hash(params: Params) -> str:
    """sha256 of every value of the params; comments and order do not matter."""
    return files.sha256_json(params.to_dict())


@dataclass(frozen=True)
class Stage:
    """The command of a process.

    Attributes:
        command: `pipeline.distill`, or empty.
        inputs: path -> hash of the data that the command reads, as they were on disk when it started.
    """

    command: str
    inputs: dict[str, str]


def stage() -> Stage:
    """The stage of this process, or of its parent; determined at the first call."""
    if STAGE_VARIABLE not in os.environ:
        command = dvc_yaml.command()
        reads, _ = dvc_yaml.reads_and_writes(command, sys.argv[1:])
        os.environ[STAGE_VARIABLE] = json.dumps({"command": command, "inputs": _data_hashes(reads)})
    return Stage(**json.loads(os.environ[STAGE_VARIABLE]))


def outputs() -> dict[str, str]:
    """path -> hash of the outputs of this process's command, as they are on disk."""
    return _data_hashes(dvc_yaml.reads_and_writes(dvc_yaml.command(), sys.argv[1:])[1])


def data_hash(path: Path) -> str | None:
    """The hash of a file or directory as DVC writes it to dvc.lock; None if it is absent."""
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    found = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_md5, [file for _, file in found])
        entries = [{"md5": digest, "relpath": name} for (name, _), digest in zip(found, digests)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _data_hashes(paths: Iterable[str]) -> dict[str, str]:
    """Hashes of paths below data/ and of caption files; code has its own hash, and reports are logged as artifacts."""
    hashes = {path: data_hash(Path(path)) for path in paths if path.startswith(("data/", "captions"))}
    return {path: digest for path, digest in hashes.items() if digest}


def hardware() -> dict[str, str]:
    """Processor, memory, accelerators and the versions that affect numerical results."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": machine.processor(),
        "cpus": str(os.cpu_count()),
        "memory_gib": f"{machine.memory() / 2**30:.1f}",
        "gpus": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": metadata.version("diffusers"),
    }


def _git(*arguments: str) -> str:
    """The output of a git command in the repository's root, or nothing if git or the repository is missing."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
