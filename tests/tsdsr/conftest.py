"""A tiny teacher and student: the preset's shapes, a VAE that is a good linear autoencoder, a transformer that is
random but takes small steps. So the upscaler gives a recognisable picture, without training."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from tsdsr.inference import TSDSRPipeline
    from tsdsr.models.prompt import Prompt
    from tsdsr.models.student import Student

RANK = 8


@dataclass(frozen=True)
class Model:
    """The plain student in memory, and its two directories."""

    student: Student
    prompt: Prompt
    teacher_dir: Path
    student_dir: Path


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """(512, 512, 3), uint8."""
    from skimage import data as photographs

    return photographs.astronaut()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray) -> Model:
    from tsdsr.models import presets
    from tsdsr.models.linear_start import linear_start
    from tsdsr.models.prompt import Prompt
    from tsdsr.models.student import Student

    preset = presets.get("tiny")
    vae = presets.build_vae(preset, seed=0)
    crops = torch.from_numpy(photograph).permute(2, 0, 1).float().div(127.5).sub(1)
    linear_start(vae, crops.unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).flatten(0, 1))
    transformer = presets.build_transformer(preset, seed=0)
    transformer.proj_out.weight.data *= 0.1
    root = tmp_path_factory.mktemp("model")
    teacher_dir = root / "data" / "teacher"
    transformer.save_pretrained(teacher_dir / "transformer")
    vae.save_pretrained(teacher_dir / "vae")
    presets.build_scheduler(preset).save_pretrained(teacher_dir / "scheduler")
    (teacher_dir / "model_index.json").write_text("{}")

    student = Student(vae, transformer, use_shift=False)
    transformer.requires_grad_(False)
    student.add_adapters(rank=RANK, alpha=RANK, seed=0, trainable=False)
    generator = torch.Generator().manual_seed(0)
    for network in (vae, transformer):
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.01 * torch.randn(parameter.shape, generator=generator)
    config = preset.shape["transformer"]
    prompt = Prompt(
        torch.randn(preset.prompt_tokens, config["joint_attention_dim"], generator=generator),
        torch.randn(config["pooled_projection_dim"], generator=generator),
    )
    student_dir = root / "data" / "students" / "full"
    student.save(
        student_dir,
        {"lora": {"rank": RANK, "alpha": RANK}, "use_shift": False, "scale": 4, "teacher": {"source": None}},
        prompt,
    )
    return Model(student, prompt, teacher_dir, student_dir)


NOISE = 0.3


@pytest.fixture(scope="session")
def noisy(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same student, with noise of this standard deviation in what its decoder reads."""
    from tsdsr import files

    directory = tmp_path_factory.mktemp("noisy") / "student"
    shutil.copytree(model.student_dir, directory)
    record = files.read_json(directory / "student.json")
    files.write_json(directory / "student.json", {**record, "decoder_noise": NOISE})
    return directory


@pytest.fixture(scope="session")
def noisy_pipe(model: Model, noisy: Path) -> TSDSRPipeline:
    from tsdsr.inference import TSDSRPipeline

    pipe = TSDSRPipeline.from_pretrained(model.teacher_dir, student=noisy)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def loaded(model: Model) -> TSDSRPipeline:
    from tsdsr.inference import TSDSRPipeline

    pipe = TSDSRPipeline.from_pretrained(model.teacher_dir, student=model.student_dir)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: TSDSRPipeline) -> TSDSRPipeline:
    """A copy that a test may change."""
    return copy.copy(loaded)
