"""Open an upscaler from `--model`, `--teacher`, `--dtype` and `--device`.

A model with ONNX graphs runs in ONNX Runtime, without importing PyTorch, unless a GPU, another precision or another
teacher is requested.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsdsr import compat, files
from tsdsr.errors import UserError
from tsdsr.inference.networks.in_onnx import RECORD, OnnxNetworks, Record
from tsdsr.inference.upscaler import Upscaler

if TYPE_CHECKING:
    import torch

    from tsdsr.inference.pipeline import TSDSRPipeline

SHIPPED = Path(__file__).parents[1] / "shipped"  # models that come with the package
DEFAULT = "nano"
STUDENTS = Path("data/students")
SAVED = "model_index.json"  # of `save_pretrained` and `tsdsr export`
GRAPHS, STUDENT, TEACHER = "onnx", "student", "teacher"  # the parts of a shipped model
_MARKS = (RECORD, f"{GRAPHS}/{RECORD}", f"{STUDENT}/student.json", SAVED, "student.json", "transformer.safetensors")
_RELEASED_SCALE = 4.0  # of TSD-SR's released weights, which come without a student.json


@dataclass(frozen=True)
class Model:
    """A model, and the options for opening it.

    Attributes:
        place: a student directory, an export, or one of `SHIPPED`.
        teacher: the student's base, a directory or a hub id; None = the one named by the student.
        dtype: auto (float32 on a CPU, bfloat16 on a GPU), float32, float16 or bfloat16.
        device: auto (a GPU if there is one and PyTorch runs the model), cpu, cuda or cuda:N.
    """

    place: Path
    teacher: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    @property
    def student(self) -> Path:
        """The student's directory, or the export itself."""
        return self.place / STUDENT if (self.place / STUDENT).is_dir() else self.place

    @property
    def graphs(self) -> Path | None:
        """The directory of ONNX graphs, if they fit the options."""
        if self.teacher is not None or self.dtype not in ("auto", "float32") or self.device not in ("auto", "cpu"):
            return None
        return next((path for path in (self.place, self.place / GRAPHS) if (path / RECORD).is_file()), None)

    @property
    def scale(self) -> float:
        """The model's training scale, without loading it.

        Raises:
            UserError: its record is damaged.
        """
        if self.graphs is not None:
            return Record.read(self.graphs).scale
        records = [path for name in (SAVED, "student.json") if (path := self.student / name).is_file()]
        try:
            return float(files.read_json(records[0])["scale"]) if records else _RELEASED_SCALE
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{records[0]}: damaged or not a model's ({error!r})") from None

    def open(self) -> Upscaler:
        """Load it.

        Raises:
            UserError: the model is damaged, the device does not exist, or PyTorch is needed and missing.
        """
        if self.graphs is not None:
            return Upscaler(OnnxNetworks(self.graphs), self.scale)
        if not (self.student / SAVED).is_file() and (self.student / RECORD).is_file():
            raise UserError(f"{self.place}: has only ONNX graphs, which run on a CPU in float32, without a teacher")
        _torch()
        with compat.lean_imports():
            return self.pipeline().upscaler()

    def pipeline(self) -> TSDSRPipeline:
        """Load it as a diffusers pipeline, on its device. Raises as `open` does."""
        torch = _torch()
        from tsdsr.inference import TSDSRPipeline
        from tsdsr.inference.loading import teacher_of
        from tsdsr.models.quiet import quiet

        where = find_device(self.device)
        kind = ("float32" if where.type == "cpu" else "bfloat16") if self.dtype == "auto" else self.dtype
        options = {"dtype": getattr(torch, kind)}
        with quiet():
            if (self.student / SAVED).is_file():
                pipe = TSDSRPipeline.from_pretrained(self.student, **options)
            else:
                own = self.place / TEACHER if (self.place / TEACHER).is_dir() else None
                teacher = self.teacher or own or teacher_of(self.student)
                pipe = TSDSRPipeline.from_pretrained(teacher, student=self.student, **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(where)


def find_model(
    name: str | None = None, *, teacher: str | None = None, dtype: str = "auto", device: str = "auto"
) -> Model:
    """The model for `--model`.

    Args:
        name: a student's directory or its name below `data/students`; a directory of `tsdsr export` or
            `save_pretrained`; the name of a shipped model; None = the shipped one.
        teacher, dtype, device: as in `Model`.

    Raises:
        UserError: the model is unknown.
    """
    tried = [SHIPPED / DEFAULT] if name is None else [Path(name), STUDENTS / name, SHIPPED / name]
    for place in tried:
        if any((place / mark).is_file() for mark in _MARKS):
            return Model(place, teacher, dtype, device)
    names = model_names()
    known = f"there are {', '.join(names)}" if names else "there are none; `make repro` makes one named full"
    if name is None:
        raise UserError(f"this installation has no shipped model; name one with --model ({known})")
    raise UserError(f"{name}: neither a model's directory nor the name of one ({known})")


def model_names() -> list[str]:
    """The names of the models: shipped ones, then those in `data/students`."""
    shipped = sorted(path.parent.parent.name for path in SHIPPED.glob(f"*/{GRAPHS}/{RECORD}"))
    own = {path.parent.name for mark in ("student.json", SAVED) for path in STUDENTS.glob(f"*/{mark}")}
    return [*shipped, *sorted(own)]


def find_device(device: str) -> torch.device:
    """The device for `--device`.

    Raises:
        UserError: it does not exist.
    """
    torch = _torch()
    if device == "auto":
        from tsdsr.device import pick

        return pick()
    try:
        where = torch.device(device)
        torch.empty(0, device=where).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {str(error).strip().splitlines()[0]}") from None
    return where


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError("this needs PyTorch and diffusers: pip install 'tsdsr[torch]'") from None
    compat.apply()
    return torch
