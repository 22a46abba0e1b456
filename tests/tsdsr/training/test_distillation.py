"""A whole distillation of a worker, for what no stage of the committed params asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from pipeline.precompute import precompute
from tests.teachers import write_pairs, write_random_teacher
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.inference import TSDSRPipeline
from tsdsr.models import restoring
from tsdsr.models.student import WEIGHTS
from tsdsr.models.teacher import load_teacher
from tsdsr.training.checkpoint import Stopped
from tsdsr.training.distillation import DistillJob, distill
from tsdsr.training.trainer import Callbacks

PLACES = ("pairs", "latents", "teacher", "out", "curve", "checkpoints", "diagnostics", "validation", "targets")
SHORT = {
    "steps": 2,
    "batch_size": 2,
    "num_workers": 0,
    "threads_per_worker": 1,
    "degradation": "offline",
    "shift_positions": False,
    "lora": {"rank": 4, "alpha": 4, "vae_rank": 2},
    "tsd": {"trajectory_draws": 2, "dasm": {"steps": 1}},
    "log_every": 1,
}


def job(root: Path, start: Path | None = None) -> DistillJob:
    return DistillJob("full", 0, **{name: root / name for name in PLACES}, start=start, guarded=False)


def test_pairs_of_the_disk_and_trajectories_that_two_students_share(params: Params, tmp_path: Path) -> None:
    write_random_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs", count=2, side=32)
    params = params.overlay({"distill": SHORT})
    precompute(params, tmp_path / "pairs", tmp_path / "teacher", tmp_path / "latents", tmp_path / "growing")
    students, times = [], []
    for lam in (0.7, 0.0):
        distill(params.overlay({"distill": {"tsd": {"lambda": lam}}}), job(tmp_path), device=torch.device("cpu"))
        students.append(load_file(tmp_path / "out" / WEIGHTS[0]))
        found = sorted((tmp_path / "targets").rglob("*.safetensors"))
        times.append([path.stat().st_mtime_ns for path in found])
    assert len(found) == 4  # two photographs and their mirror images
    assert load_file(found[0])["target"].shape == (2, 2, 16, 4, 4)
    assert times[0] == times[1]
    assert any(not torch.equal(value, students[1][key]) for key, value in students[0].items())


def test_a_student_goes_on_from_another(params: Params, tmp_path: Path) -> None:
    """With a learning rate of next to nothing it stays what it went on from; weights of another shape are refused."""
    write_random_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs", count=2, side=32)
    params = params.overlay({"distill": SHORT}).overlay({"distill": {"tsd": {"trajectory_draws": 0}}})
    precompute(params, tmp_path / "pairs", tmp_path / "teacher", tmp_path / "latents", tmp_path / "growing")
    distill(params, job(tmp_path), device=torch.device("cpu"))
    (tmp_path / "out").rename(tmp_path / "first")
    first = load_file(tmp_path / "first" / WEIGHTS[0])
    frozen = {"student_lr": 1e-12, "weight_decay": 0.0}
    again, begun = params.overlay({"distill": {"optimizer": frozen}}), job(tmp_path, tmp_path / "first")
    distill(again, begun, device=torch.device("cpu"))
    for key, value in load_file(tmp_path / "out" / WEIGHTS[0]).items():
        torch.testing.assert_close(value, first[key], rtol=0, atol=1e-9)
    narrow = again.overlay({"distill": {"lora": {"rank": 2, "alpha": 2}}})
    with pytest.raises(UserError, match="does not fit this model's adapter"):
        distill(narrow, begun, device=torch.device("cpu"))


def test_tadsr_makes_a_student_that_the_upscaler_opens(params: Params, root: Path, tmp_path: Path) -> None:
    transformer = load_teacher(write_random_teacher(tmp_path / "teacher"), text_encoders=False).transformer
    restoring.attach(transformer, rank=2, seed=0, trainable=True)
    restoring.save(transformer, tmp_path / "teacher" / restoring.FILE)
    write_pairs(tmp_path / "pairs", count=2, side=32)
    recipe = yaml.safe_load((root / "params/tadsr.yaml").read_text())
    short = {name: value for name, value in SHORT.items() if name != "tsd"}
    params = params.overlay(recipe).overlay({"teacher": {"restorer": {"sampling_steps": 2}}, "distill": short})
    precompute(params, tmp_path / "pairs", tmp_path / "teacher", tmp_path / "latents", tmp_path / "growing")
    distill(params, job(tmp_path), device=torch.device("cpu"))
    header = (tmp_path / "curve").read_text().splitlines()[0].split(",")
    assert {"regression", "hfsd", "gan", "discriminator", "discriminator_lr"} <= set(header)
    pipe = TSDSRPipeline.from_pretrained(tmp_path / "teacher", student=tmp_path / "out")
    assert pipe(Image.new("RGB", (16, 12))).images[0].size == (64, 48)


def test_a_gpu_that_is_not_there_is_one_clear_line(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="cuda, and torch finds no GPU"):
        distill(params, job(tmp_path), device=torch.device("cuda", 0))


ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def as_before():
    """What `distill.deterministic` sets holds for the whole process."""
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
@pytest.mark.usefixtures("as_before")
def test_a_deterministic_run_is_gone_on_with_to_the_same_bytes(params: Params, tmp_path: Path, place: str) -> None:
    write_random_teacher(tmp_path / "teacher")
    write_pairs(tmp_path / "pairs", count=2, side=32)
    settings = {**SHORT, "tsd": {"dasm": {"steps": 1}}, "deterministic": True, "noise": "device", "readers": 2}
    params = params.overlay({"distill": {**settings, "checkpoint": {"every": 1}}})
    precompute(params, tmp_path / "pairs", tmp_path / "teacher", tmp_path / "latents", tmp_path / "growing")
    found = []
    for name, stops in (("whole", False), ("resumed", True)):
        work = replace(job(tmp_path), **{part: tmp_path / name / part for part in ("out", "curve", "checkpoints")})
        if stops:
            with pytest.raises(Stopped):
                distill(params, work, device=torch.device(place), callbacks=Callbacks(stop=lambda: True))
        distill(params, work, device=torch.device(place))
        found.append([(work.out / file).read_bytes() for file in WEIGHTS] + [work.curve.read_bytes()])
    assert torch.are_deterministic_algorithms_enabled()
    assert found[0] == found[1]
