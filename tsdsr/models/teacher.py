"""The teacher: a directory in Stable Diffusion 3's format, and its parts for the rest of the code.

`load_teacher` opens a directory that the teacher stage wrote, any SD3-format directory, or a hub id. A stage-written
directory has `teacher.json`; if that names a `source`, the weights are there and the directory is a pointer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.models import adapters, presets
from tsdsr.models.quiet import quiet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline

RECORD = "teacher.json"
FINETUNED = "teacher.safetensors"
FORMAT = 1
CLASSES = {
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
}


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher."""

    vae: AutoencoderKL
    transformer: SD3Transformer2DModel  # has the adapter `teacher` if the teacher was fine-tuned
    schedule: FlowSchedule
    text: StableDiffusion3Pipeline | None  # only the text components, for `encode_prompts`


@dataclass(frozen=True)
class Location:
    """The location of a teacher's weights."""

    source: str  # a directory or a hub id
    revision: str | None = None
    adapter: Path | None = None  # LoRA weights of `teacher.finetune`

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.revision is None else {"revision": self.revision}


def locate(source: str | Path) -> Location:
    """Follow a stage-written directory to its weights; other sources are returned unchanged.

    A `Path` is never a hub id, although `data/teacher` looks like one.

    Raises:
        UserError: `teacher.json` has another format, or the path does not exist.
    """
    directory = Path(source)
    record_path = directory / RECORD
    if not record_path.is_file():
        if directory.is_dir() and not (directory / "model_index.json").is_file():
            raise UserError(f"{source}: not a teacher: neither {RECORD} nor model_index.json in it")
        if not directory.exists() and (isinstance(source, Path) or not is_hub_id(source)):
            raise UserError(f"{source}: no such directory; the teacher stage writes it (`dvc repro teacher`)")
        return Location(str(source))
    record = files.read_json(record_path)
    if record.get("format") != FORMAT:
        raise UserError(f"{record_path}: format {record.get('format')!r}; this version reads {FORMAT}")
    adapter = directory / FINETUNED
    return Location(
        source=record["source"] or str(directory),
        revision=record.get("revision"),
        adapter=adapter if adapter.is_file() else None,
    )


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form `owner/name` of a hub id."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith("/")


def load_teacher(
    source: str | Path,
    *,
    text_encoders: bool,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Teacher:
    """Load a teacher, frozen and in eval mode.

    Args:
        source: a directory written by the teacher stage, another SD3-format directory, or a hub id.
        text_encoders: whether to load the text encoders, which training and inference do not need.
        dtype: of every network's weights; a fine-tuning adapter stays float32.
        device: of the networks.

    Raises:
        UserError: it cannot be read.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    where = locate(source)
    vae = load_vae(where, dtype=dtype, device=device)
    with _readable(where):
        transformer = SD3Transformer2DModel.from_pretrained(
            where.source, subfolder="transformer", dtype=dtype, **where.options
        )
        check_whole(where.source, "transformer", transformer)
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(
            where.source, subfolder="scheduler", **where.options
        )
    transformer.to(device).eval().requires_grad_(False)
    if where.adapter is not None:
        _attach(transformer, where.adapter)
    text = load_text(where, dtype=dtype, device=device) if text_encoders else None
    return Teacher(vae, transformer, FlowSchedule.from_scheduler(scheduler), text)


def load_vae(where: Location, *, dtype: torch.dtype, device: str | torch.device) -> AutoencoderKL:
    """The teacher's autoencoder alone, frozen."""
    from diffusers import AutoencoderKL

    with _readable(where):
        vae = AutoencoderKL.from_pretrained(where.source, subfolder="vae", dtype=dtype, **where.options)
        check_whole(where.source, "vae", vae)
    return vae.to(device).eval().requires_grad_(False)


def load_text(where: Location, *, dtype: torch.dtype, device: str | torch.device) -> StableDiffusion3Pipeline:
    """The teacher's tokenizers and text encoders, as a pipeline without transformer and VAE."""
    from diffusers import StableDiffusion3Pipeline

    with _readable(where):
        pipe = StableDiffusion3Pipeline.from_pretrained(
            where.source, transformer=None, vae=None, dtype=dtype, **where.options
        )
    return pipe.to(device)


def check_whole(source: str, part: str, network: nn.Module) -> None:
    """Check that all weights were loaded: diffusers leaves missing ones on the meta device.

    Raises:
        UserError: weights are missing.
    """
    lacking = [name for name, value in network.state_dict().items() if value.is_meta]
    if lacking:
        raise UserError(f"{source}: damaged: {part} lacks {len(lacking)} of its weights, {lacking[0]} among them")


@contextmanager
def _readable(where: Location) -> Iterator[None]:
    """Report the libraries' errors for absent, gated and damaged files in one line."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, SafetensorError) as error:
        taken = "" if Path(where.source).exists() else " (no such directory here, so taken for a hub id)"
        raise UserError(f"{where.source}{taken}: cannot load the teacher: {_first_line(error)}") from error


def _attach(transformer: SD3Transformer2DModel, path: Path) -> None:
    """Add the frozen adapter `teacher` to the layers with weights in the file.

    The file determines the kinds of layers; each kind occurs in every block.
    """
    state = adapters.read_weights(path)
    rank = adapters.rank_of(state, str(path))
    kinds = {_kind(re.sub(r"\.lora_[AB]\.weight$", "", key.removeprefix(adapters.PREFIX))) for key in state}
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    names = [
        name for name, module in transformer.named_modules() if isinstance(module, layers) and _kind(name) in kinds
    ]
    if not names:
        raise UserError(f"{path}: none of its keys names a layer of this transformer, such as {next(iter(state))}")
    modules = "|".join(re.escape(name) for name in names)
    adapters.add_adapter(transformer, adapters.TEACHER, rank=rank, alpha=rank, targets=modules, seed=0, trainable=False)
    adapters.load_state(transformer, adapters.TEACHER, state, origin=str(path))


def _kind(name: str) -> str:
    """A layer's name without the number of its block."""
    return re.sub(r"\.\d+\.", ".*.", name, count=1)


def fingerprint(directory: str | Path) -> str:
    """sha256 over the names and bytes of a teacher directory's files, which a cache records.

    For a pointer it covers `teacher.json`, with the source, its revision and the sizes of its weights.
    """
    directory = Path(directory)
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory).as_posix()} {files.sha256_file(path)}\n".encode())
    return digest.hexdigest()


def inspect(source: str, preset: presets.Preset) -> dict[str, Any]:
    """Check that a local directory or hub repository is a teacher of the preset's shape, without loading weights.

    Returns:
        the content of `teacher.json`: format, preset, source, revision (of a hub id) and weights (file name -> bytes).

    Raises:
        UserError: it is absent, gated or unreachable, or has other classes or shapes, each of which is named.
    """
    root, revision = _fetch_configs(source)
    index = _read_config(root / "model_index.json", source)
    problems = [
        f"{part} is {(index.get(part) or [None, None])[1]}, SD3 has {wanted}"
        for part, wanted in CLASSES.items()
        if (index.get(part) or [None, None])[1] != wanted
    ]
    for part in CLASSES:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        problems += presets.mismatches(preset, part, _read_config(root / part / name, source))
    if problems:
        raise UserError(f"{source}: not a teacher of preset {preset.name}: {'; '.join(problems)}")
    local = Path(source).is_dir()
    return {
        "format": FORMAT,
        "preset": preset.name,
        "source": str(Path(source).resolve()) if local else source,
        "revision": revision,
        "weights": _weights(Path(source)) if local else None,
    }


def _weights(root: Path) -> dict[str, int]:
    found = {path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(root.glob("*/*.safetensors"))}
    lacking = [
        part for part in CLASSES if part != "scheduler" and not any(name.startswith(f"{part}/") for name in found)
    ]
    if lacking:
        raise UserError(f"{root}: no safetensors weights in {', '.join(lacking)}")
    return found


def _fetch_configs(source: str) -> tuple[Path, str | None]:
    """The directory of a teacher's configurations: the local directory, or that of a hub id in the hub's cache."""
    if Path(source).is_dir():
        return Path(source), None
    if not is_hub_id(source):
        raise UserError(f"teacher.source: {source!r} is neither a directory nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        root = Path(snapshot_download(source, allow_patterns=["model_index.json", "*/config.json", "scheduler/*.json"]))
    except GatedRepoError:
        raise UserError(
            f"teacher.source: {source} is gated: accept its licence on its page, then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"teacher.source: {source}: no such repository on the hub, or it is private") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"teacher.source: {source} is not in the local hub cache and the hub cannot be reached "
            f"({_first_line(error)}); connect, or give a local directory in the SD3 format"
        ) from None
    return root, root.name


def _read_config(path: Path, source: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = files.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{source}: lacks {path.parent.name}/{path.name}; not an SD3-format directory") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
