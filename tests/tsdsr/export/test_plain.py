"""What others can do with our student, without this project: merged weights, and the adapters' own files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import relative
from tests.tsdsr.conftest import Model
from tsdsr.commands.main import main


def test_plain_diffusers_and_peft_give_the_same_picture(model: Model, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    words = ["export", "-o", str(merged), "--as", "diffusers", "--model", str(model.student_dir)]
    assert main([*words, "--teacher", str(model.teacher_dir)]) == 0
    assert sorted(path.name for path in merged.iterdir()) == [
        "prompt.safetensors",
        "scheduler",
        "step.json",
        "transformer",
        "vae",
    ]
    assert main([*words, "--teacher", str(model.teacher_dir), "--card"]) == 0  # an earlier export is replaced
    card = (merged / "README.md").read_text()
    assert 'AutoencoderKL.from_pretrained("merged", subfolder="vae")' in card
    assert "TSDSRPipeline" not in card
    assert "streamlined" not in card
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_file({"image": image}, tmp_path / "image.safetensors")
    script = Path(__file__).with_name("plain_diffusers.py")
    places = [
        model.teacher_dir,
        model.student_dir,
        merged,
        tmp_path / "image.safetensors",
        tmp_path / "out.safetensors",
    ]
    subprocess.run([sys.executable, str(script), *map(str, places)], check=True, cwd=tmp_path)
    found = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        wanted = model.student.decode(model.student(image, model.prompt))
    assert relative(found["merged"], wanted) < 1e-5
    assert relative(found["adapters"], wanted) < 1e-5
    assert relative(found["base"], wanted) > 1e-3


def test_released_weights_and_an_export(model: Model, tmp_path: Path, capsys) -> None:
    """The former come without a student.json; the latter is merged already."""
    released, whole = tmp_path / "released", tmp_path / "whole"
    shutil.copytree(model.student_dir, released, ignore=shutil.ignore_patterns("student.json"))
    words = ["--as", "diffusers", "--teacher", str(model.teacher_dir)]
    assert main(["export", "-o", str(tmp_path / "plain"), "--model", str(released), *words]) == 0
    assert (tmp_path / "plain/step.json").is_file()
    assert main(["export", "-o", str(whole), "--model", str(model.student_dir), *words[2:]]) == 0
    assert main(["export", "-o", str(tmp_path / "none"), "--model", str(whole), *words]) == 2
    assert "--as diffusers takes a student directory" in capsys.readouterr().err
