from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tsdsr.conftest import Model
from tsdsr.commands.main import main
from tsdsr.files import write_json
from tsdsr.inference import TSDSRPipeline


@pytest.fixture
def place(model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = model.teacher_dir.parent.parent
    monkeypatch.chdir(root)
    return root


def test_an_export_needs_no_teacher_and_gives_the_same(
    place: Path, loaded: TSDSRPipeline, tmp_path: Path, caplog
) -> None:
    row = {"label": "PSNR", "direction": "higher", "mean": 27.3456, "decimals": 2}
    absent = {"label": "MUSIQ", "direction": "higher", "mean": None, "decimals": 2}
    write_json(
        Path("reports/scores/full.json"), {"images": 6, "dataset": "test", "metrics": {"psnr": row, "musiq": absent}}
    )
    out = tmp_path / "upscaler"
    with caplog.at_level("INFO"):
        assert main(["export", "-o", str(out), "--onnx", "dynamic", "--card"]) == 0
    assert not [record.name for record in caplog.records if record.name.startswith("onnx")]  # hundreds of lines
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

    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    from tsdsr.export.onnx import OneStep

    for size in ((32, 160), (112, 48)):
        pixels = torch.rand(1, 3, *size) * 2 - 1
        with torch.no_grad():
            expected = OneStep(loaded)(pixels).numpy()
        found = session.run(None, {"pixels": pixels.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)

    assert main(["export", "-o", str(out), "--onnx", "64x48"]) == 0  # again, and of one size
    fixed = onnxruntime.InferenceSession(str(out / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    assert fixed.get_inputs()[0].shape == [1, 3, 48, 64]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nobody"], "neither a model's directory"),
        (["--onnx", "50x50"], "multiple of 16"),
        (["--onnx", "dynamic", "--dtype", "float16"], "float32"),
    ],
)
def test_mistakes_write_nothing(place: Path, tmp_path: Path, capsys, words: list[str], message: str) -> None:
    assert main(["export", "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_not_replaced(place: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["export", "-o", str(tmp_path)]) == 2
    assert "no earlier export" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_size_of_nothing_is_no_size(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "-o", "out", "--onnx", "0x16"])
    assert "0x16 is neither" in capsys.readouterr().err
