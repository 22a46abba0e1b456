"""From `--model`, `--teacher`, `--dtype` and `--device` to a pipeline that is ready to run."""

from __future__ import annotations

from pathlib import Path

import torch

from tsdsr.errors import UserError
from tsdsr.inference.loading import teacher_of
from tsdsr.inference.pipeline import TSDSRPipeline
from tsdsr.models.quiet import quiet
from tsdsr.models.student import WEIGHTS

STUDENTS = Path("data/students")
SAVED = "model_index.json"  # of `save_pretrained` and `tsdsr export`


def open_pipeline(
    model: str, *, teacher: str | None = None, dtype: str = "auto", device: str = "auto"
) -> TSDSRPipeline:
    """Load a model for use from the command line.

    Args:
        model: a student's directory, its name below `data/students`, or a directory of `save_pretrained` or
            `tsdsr export`.
        teacher: the student's base, a directory or a hub id; None = the one that the student names.
        dtype: auto (float32 on a CPU, bfloat16 on a GPU), float32, float16 or bfloat16.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: for a model that is unknown or damaged, or a device that is not there.
    """
    place = find_model(model)
    where = find_device(device)
    kind = ("float32" if where.type == "cpu" else "bfloat16") if dtype == "auto" else dtype
    options = {"dtype": getattr(torch, kind)}
    with quiet():
        if (place / SAVED).is_file():
            pipe = TSDSRPipeline.from_pretrained(place, **options)
        else:
            pipe = TSDSRPipeline.from_pretrained(teacher or teacher_of(place), student=place, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(where)


def find_model(model: str) -> Path:
    """The directory that `--model` means."""
    for place in (Path(model), STUDENTS / model):
        if any((place / name).is_file() for name in (SAVED, *WEIGHTS, "student.json")):
            return place
    names = sorted(item.parent.name for item in STUDENTS.glob("*/student.json"))
    known = f"there are {', '.join(names)}" if names else "there are none; `make repro` makes one"
    raise UserError(f"{model}: neither a model's directory nor the name of one in {STUDENTS} ({known})")


def find_device(device: str) -> torch.device:
    """The device that `--device` means."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {str(error).strip().splitlines()[0]}") from None
    return where
