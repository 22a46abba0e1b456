"""Load the two networks of inference from a teacher and a student on disk. No text encoder is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tsdsr.errors import UserError
from tsdsr.inference.networks.fold import streamline
from tsdsr.inference.networks.merge import merge_adapter
from tsdsr.models import teacher as teachers
from tsdsr.models.adapters import STUDENT
from tsdsr.models.student import load_student, read_config, read_prompt

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from tsdsr.inference.networks.streamlined import StreamlinedTransformer


def teacher_of(student: Path, default: Path = Path("data/teacher")) -> str | Path:
    """The teacher of a student directory: the source in its `student.json`, otherwise the default directory, otherwise
    the folder `teacher` beside that of the students.

    Raises:
        UserError: it was not found.
    """
    named = read_config(student).get("teacher")
    source = named.get("source") if isinstance(named, dict) else named
    tried = [Path(source), student / source] if isinstance(source, str) else []
    tried += [default, student.parent.parent / "teacher"]
    for place in tried:
        if any((place / name).is_file() for name in (teachers.RECORD, "model_index.json")):
            return place
    if isinstance(source, str) and teachers.is_hub_id(source):
        return source
    places = ", ".join(dict.fromkeys(map(str, tried)))
    raise UserError(
        f"{student}: its teacher is not at {places}; run in the directory that has it, or name it with --teacher"
    )


def load_networks(
    teacher: str | Path, student: str | Path, *, dtype: torch.dtype
) -> tuple[AutoencoderKL, StreamlinedTransformer, dict[str, Any]]:
    """The VAE with its adapter merged, the streamlined transformer, and the student's `student.json`.

    Args:
        teacher: a directory of the teacher stage, another in the SD3 format, or a hub id.
        student: a student directory.
        dtype: of both networks.

    Raises:
        UserError: a directory is missing, damaged, or of another model.
    """
    read_config(student)
    prompt = read_prompt(student)
    base = teachers.load_teacher(teacher, text_encoders=False, dtype=dtype)
    _, config = load_student(base.vae, base.transformer, student)
    merge_adapter(base.vae, STUDENT)
    merge_adapter(base.transformer, STUDENT)
    return base.vae, streamline(base.transformer, prompt), config
