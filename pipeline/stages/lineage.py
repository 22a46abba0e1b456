"""A record of what each artifact was made from, by which a stage refuses inputs that do not fit its params.

`made_from.json` in an artifact holds the values of params that decide its bytes, and a fingerprint of each input. `dvc
repro` rebuilds artifacts that do not fit; this check is for stages run by hand or as Ray jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsdsr import files
from tsdsr.config import Params, flatten
from tsdsr.errors import UserError

RECORD = "made_from.json"
PAIRS, TEACHER, LATENTS, STUDENTS = "data/pairs", "data/teacher", "data/latents", "data/students"
FULL, COMPRESSED = f"{STUDENTS}/full", f"{STUDENTS}/tinysr"
SOURCE, DECISION, CUT, COMPACT = (f"data/tinysr/{name}" for name in ("source", "decision", "transformer", "vae"))
EDITS = "captions.edits"  # an input that params name: a folder of corrected captions
SIDES = ("train/hq", "train/lq", "train/captions", "test/hq", "test/lq", "test/captions")
# Values that do not affect a stage's output.
HARMLESS = {
    "teacher.checkpoint",
    "distill.checkpoint",
    "distill.device",
    "distill.log_every",
    "distill.max_skipped",
    "distill.num_workers",
    "distill.readers",
    "distill.threads_per_worker",
}


@dataclass(frozen=True)
class Artifact:
    """An artifact's stage, and what determines its bytes: keys of params, and paths below other artifacts."""

    stage: str
    params: tuple[str, ...]
    inputs: tuple[str, ...] = ()


_PHOTOGRAPHS = (f"{PAIRS}/train/hq", f"{PAIRS}/train/captions", EDITS)
_TRAINING = ("seed", "data.scale", "degradation", "prompts", "teacher.use_shift", "distill")
_TRAINED_ON = (f"{PAIRS}/train/hq", f"{PAIRS}/train/lq", LATENTS)
_DECIDER = ("compress.decider", "compress.budget", "compress.blocks", "compress.runs.prune")
_RESTORATION = ("compress.runs.restore_latents", "compress.runs.restore_images")
_AUTOENCODER = ("compress.width", "compress.separable", "compress.runs.encoder", "compress.runs.decoder")
ARTIFACTS = {
    PAIRS: Artifact("prepare-degradations", ("seed", "data", "captions", "degradation")),
    TEACHER: Artifact("teacher", ("seed", "teacher", "prompts"), _PHOTOGRAPHS),
    LATENTS: Artifact(
        "precompute",
        ("prompts", "precompute", "teacher.use_shift", "teacher.restorer.enabled", "teacher.restorer.sampling_steps"),
        (*_PHOTOGRAPHS, f"{PAIRS}/train/lq", TEACHER),
    ),
    FULL: Artifact("distill", _TRAINING, (*_TRAINED_ON, TEACHER)),
    STUDENTS: Artifact("ablate-distill", _TRAINING, (*_TRAINED_ON, TEACHER)),
    SOURCE: Artifact("compress/dvc.yaml:compress-prune", (), (TEACHER, FULL)),
    DECISION: Artifact("compress/dvc.yaml:compress-prune", (*_TRAINING, *_DECIDER), (*_TRAINED_ON, SOURCE)),
    CUT: Artifact("compress/dvc.yaml:compress-restore", (*_TRAINING, *_RESTORATION), (*_TRAINED_ON, SOURCE, DECISION)),
    COMPACT: Artifact("compress/dvc.yaml:compress-vae", (*_TRAINING, *_AUTOENCODER), (*_TRAINED_ON, SOURCE)),
    COMPRESSED: Artifact("compress/dvc.yaml:compress", (), (SOURCE, CUT, COMPACT)),
}


@contextmanager
def making(path: str, params: Params, inputs: Params | None = None) -> Iterator[None]:
    """Around a stage's work: check its inputs, then record in the artifact at `path` what it was made from.

    Args:
        inputs: the params that the inputs were made with, where others than `params`: a variant has its own seed.

    Raises:
        UserError: as `check`, for the artifacts that `path` is made from; nothing was written.
    """
    check(inputs or params, *_sources(path))
    record = _made_from(path, params)
    yield
    if _kind(path) == PAIRS:
        record["fingerprints"] = {side: _fingerprint_folder(Path(path, side)) for side in SIDES}
    files.write_json(Path(path, RECORD), record)


def check(params: Params, *paths: str) -> None:
    """Refuse artifacts that were made with other params or from other inputs.

    Raises:
        UserError: naming the artifact, the first difference and the command to run.
    """
    for path in paths:
        if reason := _misfit(path, params):
            raise UserError(
                f"{path} {reason}; run `dvc repro {ARTIFACTS[_kind(path)].stage}` first. Nothing was changed"
            )


def decides(key: str, path: str) -> bool:
    """Whether a key of params changes the artifact at `path`."""
    inside = any(f"{key}.".startswith(f"{part}.") for part in HARMLESS)
    return not inside and any(
        f"{key}.".startswith(f"{part}.") or part.startswith(f"{key}.") for part in ARTIFACTS[_kind(path)].params
    )


def training_key(params: Params) -> str:
    """16 hex digits for all the values of params that decide what a training of `distill` gives."""
    values = params.to_dict()
    deciding = ("seed", "data", "captions", "degradation", "teacher", "prompts", "precompute", "distill")
    return files.sha256_json({key: values[key] for key in deciding})[:16]


def _misfit(path: str, params: Params) -> str | None:
    if not Path(path).is_dir():
        return "is missing"
    try:
        record = files.read_json(Path(path, RECORD))
    except FileNotFoundError:
        return f"has no {RECORD}, so whether it fits the params is unknown"
    wanted = _made_from(path, params)
    made, now = flatten(record["params"]), flatten(wanted["params"])
    for key in sorted(made.keys() | now.keys()):
        if made.get(key) != now.get(key):
            return f"was made with {key}: {made.get(key)!r}, but the params have {now.get(key)!r}"
    for name, fingerprint in wanted["inputs"].items():
        if fingerprint is not None and record["inputs"].get(name) not in (fingerprint, None):
            return f"was made from another {name} than the present one"
    return None


def _made_from(path: str, params: Params) -> dict[str, Any]:
    artifact, values = ARTIFACTS[_kind(path)], params.to_dict()
    return {
        "params": {key: _value(values, key) for key in artifact.params},
        "inputs": {name: _fingerprint(name, params) for name in artifact.inputs},
    }


def _value(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, without the parts that do not affect the output."""
    found: Any = values
    for part in key.split("."):
        found = found[part]
    if isinstance(found, Mapping):
        return {name: value for name, value in found.items() if f"{key}.{name}" not in HARMLESS}
    return found


def _fingerprint(name: str, params: Params) -> str | None:
    """The present fingerprint of an input; None if this host does not have it."""
    from tsdsr.models import teacher

    if name == EDITS:
        return _fingerprint_folder(Path(params.captions.edits))
    if not Path(name).is_dir():
        return None
    if name == LATENTS:
        return files.sha256_file(Path(name, "manifest.json"))  # it contains every shard's sha256
    if _kind(name) != PAIRS:
        return teacher.fingerprint(name)
    recorded: dict[str, str] = files.read_json(Path(PAIRS, RECORD))["fingerprints"]
    return recorded[name.removeprefix(f"{PAIRS}/")]


def _fingerprint_folder(folder: Path) -> str | None:
    """sha256 over the names and bytes of a folder's images and texts; None if there is no folder."""
    found = sorted(path for path in folder.glob("*") if path.suffix in {".png", ".txt"})
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(files.sha256_file, found))
    return files.sha256_json([[path.name, digest] for path, digest in zip(found, sums, strict=True)]) if found else None


def _kind(path: str) -> str:
    return max((name for name in ARTIFACTS if f"{path}/".startswith(f"{name}/")), key=len)


def _sources(path: str) -> list[str]:
    """The direct and indirect inputs of an artifact, each after its own inputs."""
    kinds = {_kind(name) for name in ARTIFACTS[_kind(path)].inputs if name != EDITS}
    return [name for name in ARTIFACTS if name in kinds]
