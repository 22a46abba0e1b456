"""A logged student, loaded by MLflow: it upscales as our own pipeline does, and nothing is unpickled on the way."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.tracking import model as tracking_model
from tests.teachers import write_random_teacher
from tests.tiny import randomize
from tsdsr.inference import TSDSRPipeline
from tsdsr.models import adapters, presets
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher and a student of the tiny preset's shape, both random."""
    preset = presets.get("tiny")
    shape = preset.shape["transformer"]
    vae, transformer = (build(preset, seed=0) for build in (presets.build_vae, presets.build_transformer))
    student = Student(vae, transformer, use_shift=False)
    transformer.requires_grad_(False)
    student.add_adapters(rank=4, alpha=4, seed=0, trainable=False)
    randomize(transformer, adapters.STUDENT)
    embeds = torch.ones(preset.prompt_tokens, shape["joint_attention_dim"])
    prompt = Prompt(embeds, torch.ones(shape["pooled_projection_dim"]))
    config = {"lora": {"rank": 4, "alpha": 4}, "use_shift": False, "scale": 4}
    student.save(tmp_path / "students/full", config, prompt)
    return write_random_teacher(tmp_path / "teacher"), tmp_path / "students/full"


def test_mlflow_loads_it_and_upscales(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import mlflow.pyfunc

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    teacher, student = folders
    tracking_model.save(tmp_path / "model", student, {"teacher": str(teacher), "color": "adain"})
    for module in (pickle, cloudpickle):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, refuse)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    restored = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(images)
    monkeypatch.undo()
    pipe = TSDSRPipeline.from_pretrained(teacher, student=student)
    assert restored.shape == (2, 64, 96, 3)
    assert restored.dtype == np.uint8
    assert np.array_equal(restored, np.stack([np.asarray(image) for image in pipe(images, color="adain").images]))
