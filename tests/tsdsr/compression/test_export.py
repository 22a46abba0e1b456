"""The compressed student as an upscaler: the command, ONNX graphs without PyTorch, tiles, colours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tsdsr.conftest import Model
from tests.tsdsr.inference.tiles.seams import seam_score
from tsdsr.commands.main import main
from tsdsr.compression.cut import cut
from tsdsr.compression.export import source_hash, write_compressed, write_source
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.opening import find_model
from tsdsr.inference.upscaler import Tiling, Upscaler
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.teacher import load_teacher


@pytest.fixture(scope="module")
def compressed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the four blocks and an untrained compact autoencoder, a narrow one of fewer blocks."""
    root = tmp_path_factory.mktemp("compressed")
    source = root / "source"
    write_source(model.teacher_dir, model.student_dir, source)
    cut(load_teacher(source, text_encoders=False).transformer, [0, 3]).save_pretrained(root / "transformer")
    torch.manual_seed(0)
    shape = {"block_out_channels": (16,) * 4, "encoder_blocks": (1,) * 4, "decoder_blocks": (1,) * 4}
    CompactVAE(**shape).save_pretrained(root / "vae")
    write_compressed(source, root / "transformer", root / "vae", root / "tinysr")
    return root / "tinysr"


@pytest.fixture(scope="module")
def graphs(compressed: Path) -> Path:
    out = compressed.parent / "graphs"
    assert main(["export", "--as", "onnx", "--model", str(compressed), "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pipe(compressed: Path) -> TSDSRPipeline:
    pipe = TSDSRPipeline.from_pretrained(compressed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def upscaled(pipe: TSDSRPipeline, image: torch.Tensor, **options: Any) -> torch.Tensor:
    return pipe(image, output_type="pt", return_dict=False, **options)[0]


def whole(upscaler: Upscaler, image: np.ndarray, size: tuple[int, int], tiling: Tiling) -> np.ndarray:
    return np.concatenate(list(upscaler.strips(image, size, tiling=tiling)), axis=2)


def test_the_source_is_known_by_its_transformer(compressed: Path, model: Model, tmp_path: Path) -> None:
    source = compressed.parent / "source"
    assert write_source(model.teacher_dir, model.student_dir, tmp_path / "again") == source_hash(source)
    weights = tmp_path / "again/transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert source_hash(tmp_path / "again") != source_hash(source)


def test_the_command_takes_its_directory_or_its_name(
    compressed: Path, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/students").mkdir(parents=True)
    Path("data/students/tinysr").symlink_to(compressed)
    Image.fromarray(photograph[:36, :50]).save("photo.png")
    for name in (str(compressed), "tinysr"):
        for color in ("wavelet", "adain"):
            out = f"{color}.png"
            assert main(["upscale", "photo.png", "-o", out, "--model", name, "--color", color, "--tile", "128"]) == 0
            assert Image.open(out).size == (200, 144)


def test_the_graphs_give_what_the_pipeline_gives(graphs: Path, pipe: TSDSRPipeline) -> None:
    """Any size, also in tiles and several at once; up to what float16 keeps of the weights."""
    upscaler = find_model(str(graphs)).open()
    image = np.random.default_rng(0).random((1, 3, 28, 50), np.float32)
    for tiling in (Tiling(), Tiling(128, 32, 3), Tiling(None)):
        found = whole(upscaler, image, (112, 200), tiling)
        np.testing.assert_allclose(found, whole(pipe.upscaler(), image, (112, 200), tiling), atol=5e-3)


def test_the_graphs_run_without_pytorch(graphs: Path, photograph: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(photograph[:32, :40]).save(tmp_path / "photo.png")
    code = f"""
import sys
for name in ("torch", "diffusers", "transformers", "safetensors", "onnx"):
    sys.modules[name] = None
from tsdsr.commands.main import main
sys.exit(main(["upscale", "photo.png", "-o", "out.png", "--model", {str(graphs)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out.png").size == (160, 128)


def test_colours_are_those_of_the_enlarged_picture(pipe: TSDSRPipeline, photograph: np.ndarray) -> None:
    """Of an untrained network: without alignment they are far off."""
    small = torch.from_numpy(photograph[100:148, 150:198].copy()).permute(2, 0, 1)[None].float() / 255
    wanted = small.mean((0, 2, 3))
    off = {
        color: float((upscaled(pipe, small, color=color).mean((0, 2, 3)) - wanted).abs().max())
        for color in ("wavelet", "adain", "none")
    }
    assert max(off["wavelet"], off["adain"]) < 0.04 < 0.2 < off["none"]


def test_tiles_leave_no_seams(pipe: TSDSRPipeline, photograph: np.ndarray) -> None:
    image = torch.from_numpy(photograph[100:260:2, 150:310:2].copy()).permute(2, 0, 1)[None].float() / 255
    untiled, tiled = (upscaled(pipe, image, tile=tile) for tile in (None, 128))
    edges = list(range(32, 320, 32))
    assert seam_score(tiled, edges, edges) == pytest.approx(seam_score(untiled, edges, edges), rel=0.05)
    assert float((tiled - untiled).abs().mean()) < 0.02
