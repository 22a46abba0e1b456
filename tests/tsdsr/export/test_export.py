import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tsdsr.conftest import NOISE, Model
from tsdsr.commands.main import main
from tsdsr.errors import UserError
from tsdsr.files import read_json, sha256_file, write_json
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.networks.in_onnx import RECORD
from tsdsr.inference.opening import find_model
from tsdsr.inference.upscaler import Tiling, Upscaler


@pytest.fixture
def place(model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = model.teacher_dir.parent.parent
    monkeypatch.chdir(root)
    return root


def test_an_export_needs_no_teacher_and_gives_the_same(place: Path, loaded: TSDSRPipeline, tmp_path: Path) -> None:
    row = {"label": "PSNR", "direction": "higher", "mean": 27.3456, "decimals": 2}
    absent = {"label": "MUSIQ", "direction": "higher", "mean": None, "decimals": 2}
    write_json(
        Path("reports/scores/full.json"), {"images": 6, "dataset": "test", "metrics": {"psnr": row, "musiq": absent}}
    )
    out = tmp_path / "upscaler"
    assert main(["export", "-o", str(out), "--card"]) == 0
    assert len({path.stat().st_mode for path in out.rglob("*") if path.is_file()}) == 1  # others may read all or none
    pipe = TSDSRPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 24, 32)
    expected = loaded(picture, output_type="pt").images
    torch.testing.assert_close(pipe(picture, output_type="pt").images, expected, atol=2e-5, rtol=0)

    card = (out / "README.md").read_text()
    assert "library_name: diffusers" in card
    assert "PSNR (higher is better) | 27.35" in card
    assert "MUSIQ" not in card
    assert "Apache-2.0" in card


@pytest.fixture(scope="module")
def package(model: Model, noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as it ships, with noise in what the decoder reads."""
    out = tmp_path_factory.mktemp("package") / "nano"
    (out / "teacher").mkdir(parents=True)
    (out / "teacher/README.md").write_text("written by hand")
    (out / "SHA256SUMS").touch()  # so it is an earlier export
    given = ["--model", str(noisy), "--teacher", str(model.teacher_dir)]
    assert main(["export", "--as", "package", *given, "-o", str(out)]) == 0
    return out


def test_the_graphs_give_what_the_pipeline_gives(package: Path, noisy_pipe: TSDSRPipeline) -> None:
    """Any size, also in tiles and several at once; up to what float16 keeps of the weights."""
    graphs = find_model(str(package))
    assert graphs.graphs == package / "onnx"
    assert read_json(package / "onnx" / RECORD)["decoder_noise"] == NOISE
    assert graphs.scale == 4
    image = np.random.default_rng(0).random((1, 3, 28, 50), np.float32)
    for tiling in (Tiling(), Tiling(64, 16, 3), Tiling(None)):
        found = whole(graphs.open(), image, (112, 200), tiling)
        np.testing.assert_allclose(found, whole(noisy_pipe.upscaler(), image, (112, 200), tiling), atol=5e-3)


def test_a_package_is_small_checked_and_keeps_its_cards(package: Path) -> None:
    lines = (package / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[0] for line in lines] == [sha256_file(package / line.split("  ")[1]) for line in lines]
    stored = load_file(package / "teacher/transformer/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    weights = sum(value.numel() for value in stored.values())
    assert (package / "onnx/transformer.onnx").stat().st_size < 2 * weights
    assert "tsdsr upscale" in (package / "README.md").read_text()
    assert (package / "teacher/README.md").read_text() == "written by hand"


def test_the_graphs_run_without_what_training_needs(package: Path, photograph: np.ndarray, tmp_path: Path) -> None:
    """In a process where these packages cannot be imported at all, as after `pip install tsdsr`."""
    Image.fromarray(photograph[:32, :40]).save(tmp_path / "photo.jpg", dpi=(300, 300))
    code = f"""
import sys
for name in ("torch", "diffusers", "peft", "transformers", "safetensors", "scipy", "skimage", "cv2", "onnx"):
    sys.modules[name] = None
from tsdsr.commands.main import main
status = main(["upscale", "photo.jpg", "--model", {str(package)!r}])
try:
    main(["upscale", "--help"])
except SystemExit as end:
    sys.exit(status or end.code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "photo.jpg -> photo-upscaled.jpg: 160x128" in done.stderr
    assert "usage: tsdsr upscale" in done.stdout
    result = Image.open(tmp_path / "photo-upscaled.jpg")
    assert (result.size, result.info["dpi"]) == ((160, 128), (300, 300))


def test_damaged_graphs_are_one_line(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package / "onnx", tmp_path / "graphs")
    path = tmp_path / "graphs/decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"decoder.onnx: damaged"):
        find_model(str(tmp_path / "graphs")).open()
    path.unlink()
    with pytest.raises(UserError, match=r"decoder.onnx: no such file"):
        find_model(str(tmp_path / "graphs")).open()
    with pytest.raises(UserError, match="has only ONNX graphs"):
        find_model(str(tmp_path / "graphs"), dtype="bfloat16").open()


def whole(upscaler: Upscaler, image: np.ndarray, size: tuple[int, int], tiling: Tiling) -> np.ndarray:
    return np.concatenate(list(upscaler.strips(image, size, tiling=tiling)), axis=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nobody"], "neither a model's directory"),
        (["--as", "onnx", "--dtype", "float16"], "leave out --dtype"),
    ],
)
def test_mistakes_write_nothing(place: Path, tmp_path: Path, capsys, words: list[str], message: str) -> None:
    assert main(["export", "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_not_replaced(place: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["export", "-o", str(tmp_path)]) == 2
    assert "not an earlier export" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"
