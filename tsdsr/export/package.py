"""A model in the shipped form: teacher and student for training, graphs for `tsdsr upscale`, cards, checksums.

README.md     the model card
teacher/      SD3-format, float16
student/      the adapters, float16
onnx/         the graphs of the two merged
SHA256SUMS    of every file, for `sha256sum -c`
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.export.card import write_card
from tsdsr.export.graphs import export_graphs
from tsdsr.inference.opening import GRAPHS, STUDENT, TEACHER, find_model
from tsdsr.models.teacher import locate

CARD = "README.md"
SUMS = "SHA256SUMS"


def write_package(teacher: Path, student: Path, directory: Path, name: str, former: Path) -> float:
    """Write everything into `directory`.

    Args:
        teacher: a directory with its own weights.
        student: its student's directory.
        directory: exists, and is empty.
        name: the model's name.
        former: an earlier package, whose cards are kept.

    Returns:
        the largest difference of the graphs from PyTorch.

    Raises:
        UserError: the teacher's weights are elsewhere, or a weight is out of the range of float16.
    """
    if Path(locate(teacher).source).resolve() != teacher.resolve():
        raise UserError(
            f"{teacher}: its weights are at {locate(teacher).source}; a package needs a teacher with its own weights"
        )
    for source, part in ((teacher, TEACHER), (student, STUDENT)):
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            _copy(path, directory / part / path.relative_to(source))
    record = directory / STUDENT / "student.json"
    config = files.read_json(record)
    named = config.get("teacher")
    config["teacher"] = {**(named if isinstance(named, dict) else {}), "source": f"../{TEACHER}"}
    files.write_json(record, config)
    write_card(student, directory, name)
    for card in former.rglob(CARD):
        (directory / card.relative_to(former)).write_bytes(card.read_bytes())
    (directory / GRAPHS).mkdir()
    difference = export_graphs(find_model(str(directory), dtype="float32", device="cpu").pipeline(), directory / GRAPHS)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    sums = [f"{files.sha256_file(path)}  {path.relative_to(directory).as_posix()}\n" for path in paths]
    (directory / SUMS).write_text("".join(sums), encoding="utf-8")
    return difference


def _copy(source: Path, target: Path) -> None:
    """Copy a file; safetensors with float32 converted to float16."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".safetensors":
        shutil.copyfile(source, target)
        return
    with safe_open(source, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
        metadata = file.metadata()
    halved = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    for key, value in halved.items():
        if not value.isfinite().all():
            raise UserError(f"{source}: {key} has values out of the range of float16")
    save_file(halved, target, metadata)
