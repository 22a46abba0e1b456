"""What made a result: the commit, the code, the params, the DVC lock's hashes, the hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tsdsr.config import Params

COMMIT_VARIABLE = "TSDSR_GIT_COMMIT"  # for processes that run without the repository, such as a Ray job
ROOT_VARIABLE = "TSDSR_ROOT"

# Written by a pipeline run itself, or hashed and logged in full beside the commit.
_NOT_CODE = ("dvc.lock", "reports", "params.yaml")


def root() -> Path:
    """The repository that this process works for: where its store and its `.tsdsr` lie.

    The working directory, except for DVC's queued experiments, which run in a copy below `.dvc/tmp/exps`: theirs is the
    repository around it, so that their runs outlive the copy.
    """
    directory = Path(os.environ.get(ROOT_VARIABLE) or Path.cwd()).resolve()
    parts = directory.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return directory


def git_commit() -> str:
    """The commit that is checked out (40 hex digits), or `unknown` outside of a git repository."""
    return os.environ.get(COMMIT_VARIABLE) or _git("rev-parse", "HEAD") or "unknown"


def git_dirty() -> bool:
    """Are there uncommitted changes in tracked files, other than params.yaml and what a run writes?"""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *[f":!{name}" for name in _NOT_CODE])
    return bool(changed)


def code_hash() -> str:
    """sha256 over the modules of `tsdsr` and `pipeline`: tells apart runs of one commit with different edits."""
    digest = hashlib.sha256()
    package_root = Path(__file__).resolve().parents[2]
    for path in sorted(path for name in ("tsdsr", "pipeline") for path in (package_root / name).rglob("*.py")):
        digest.update(path.relative_to(package_root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def params_hash(params: Params) -> str:
    """sha256 of every value of the params; comments and order do not matter."""
    return hash_values(params.to_dict())


def hash_values(values: Mapping[str, Any]) -> str:
    """sha256 of a JSON-like mapping, independent of its order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def dvc_hashes(lock: str | Path) -> dict[str, str]:
    """Path -> hash of every output and dependency in a dvc.lock; empty without one."""
    lock = Path(lock)
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    entries = [entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])]
    return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}


def hardware() -> dict[str, str]:
    """Processor, memory, accelerators and the versions that decide numerical results."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cpus": str(os.cpu_count()),
        "memory_gib": f"{_memory_bytes() / 2**30:.1f}",
        "gpus": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": metadata.version("diffusers"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _git(*arguments: str) -> str:
    """Output of a git command in the repository's root, or nothing where git or the repository is missing."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
