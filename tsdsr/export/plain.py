"""A student as plain diffusers networks, with its adapters merged, which load without this project."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tsdsr import files
from tsdsr.inference.networks.merge import merge_adapter
from tsdsr.models.adapters import STUDENT
from tsdsr.models.student import PROMPT_FILE, STUDENT_TIMESTEP, load_student, read_config
from tsdsr.models.teacher import load_teacher

STEP_FILE = "step.json"  # the step: timestep, scale, whether latents are shifted, the noise in the decoder's input


def export_plain(teacher: str | Path, student: Path, directory: Path, *, dtype: torch.dtype) -> int:
    """Write `transformer/`, `vae/`, `scheduler/`, `prompt.safetensors` and `step.json` into `directory`.

    Args:
        teacher: the student's base, a directory or a hub id.
        student: a student directory.
        directory: exists, and is empty.
        dtype: of the weights.

    Returns:
        the number of parameters written.

    Raises:
        UserError: for a directory that is missing, damaged, or of another model.
    """
    config = read_config(student)
    base = load_teacher(teacher, text_encoders=False, dtype=dtype)
    load_student(base.vae, base.transformer, student)
    for network, name in ((base.vae, "vae"), (base.transformer, "transformer")):
        merge_adapter(network, STUDENT)
        network.save_pretrained(directory / name)
    FlowMatchEulerDiscreteScheduler(shift=base.schedule.shift).save_pretrained(directory / "scheduler")
    shutil.copy(student / PROMPT_FILE, directory / PROMPT_FILE)
    step = {key: config[key] for key in ("scale", "use_shift", "decoder_noise")}
    files.write_json(directory / STEP_FILE, {"timestep": STUDENT_TIMESTEP, **step})
    return sum(parameter.numel() for network in (base.vae, base.transformer) for parameter in network.parameters())
