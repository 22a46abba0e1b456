"""From a teacher and a student on disk to the two networks that inference runs. No text encoder is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tsdsr.errors import UserError
from tsdsr.inference.fold import streamline
from tsdsr.inference.merge import merge_adapter
from tsdsr.models.adapters import STUDENT
from tsdsr.models.student import load_student, read_config, read_prompt

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from tsdsr.inference.streamlined import StreamlinedTransformer


def teacher_of(student: Path, default: Path = Path("data/teacher")) -> Path:
    """The teacher a student directory was distilled from: `student.json`'s, from where the program runs or from beside
    the student's folder; else the default place.

    Raises:
        UserError: if it is nowhere.
    """
    named = read_config(student).get("teacher")
    tried = [Path(named), student / named] if isinstance(named, str) else []
    tried += [default, student.parent.parent / "teacher"]
    for place in tried:
        if (place / "model_index.json").is_file():
            return place
    places = ", ".join(dict.fromkeys(map(str, tried)))
    raise UserError(f"{student}: its teacher is not at {places}; run where it is, or give its directory")


def load_networks(
    teacher: str | Path, student: str | Path, *, dtype: torch.dtype, **hub: Any
) -> tuple[AutoencoderKL, StreamlinedTransformer, dict[str, Any]]:
    """The VAE with its adapter merged, the streamlined transformer, and the student's `student.json`.

    Args:
        teacher: a directory in the SD3 format or a hub id; only its `vae` and `transformer` are read.
        student: a student directory.
        dtype: of both networks.
        hub: options of diffusers' `from_pretrained`, such as `local_files_only` or `revision`.

    Raises:
        UserError: for a directory that is missing, damaged, or of another model.
    """
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    student = Path(student)
    read_config(student)
    prompt = read_prompt(student)
    vae = _load(AutoencoderKL, teacher, "vae", torch_dtype=dtype, **hub)
    transformer = _load(SD3Transformer2DModel, teacher, "transformer", torch_dtype=dtype, **hub)
    _, config = load_student(vae, transformer, student)
    merge_adapter(vae, STUDENT)
    merge_adapter(transformer, STUDENT)
    return vae.eval().requires_grad_(False), streamline(transformer, prompt), config


def _load(kind: Any, source: str | Path, part: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(source), subfolder=part, **options)
    except Exception as error:  # diffusers, huggingface_hub and safetensors raise a dozen types for an unreadable model
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{source}: cannot read its {part}: {reason}") from None
