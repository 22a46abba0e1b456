"""The command from end to end, on a tiny model: `tsdsr.commands.main.main` as a person calls it."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from tests.tsdsr.conftest import Model
from tsdsr.commands.main import main
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.upscaler import Upscaler


@pytest.fixture
def place(tmp_path: Path, model: Model, loaded: TSDSRPipeline, photograph: np.ndarray, monkeypatch) -> Path:
    """A working folder with a photograph, `photo.png`; the model is loaded once for all tests."""
    monkeypatch.chdir(tmp_path)
    ready = SimpleNamespace(scale=4.0, open=loaded.upscaler)
    monkeypatch.setattr("tsdsr.commands.upscale.find_model", lambda *args, **options: ready)
    Image.fromarray(photograph[:64:2, :80:2]).save("photo.png")
    return tmp_path


def upscale(*words: str) -> int:
    return main(["upscale", *words])


def test_the_documented_line(tmp_path: Path, model: Model, photograph: np.ndarray, monkeypatch) -> None:
    monkeypatch.chdir(model.teacher_dir.parent.parent)
    Image.fromarray(photograph[:40, :48]).save(tmp_path / "photo.jpg")
    assert upscale(str(tmp_path / "photo.jpg"), "-o", str(tmp_path / "out.png"), "--model", "full") == 0
    assert Image.open(tmp_path / "out.png").size == (192, 160)


@pytest.mark.parametrize(
    ("options", "size"),
    [(["--scale", "1.5"], (60, 48)), (["--width", "100"], (100, 80)), (["--megapixels", "0.02"], (158, 126))],
)
def test_sizes(place: Path, options: list[str], size: tuple[int, int]) -> None:
    assert upscale("photo.png", "-o", "out.png", *options) == 0
    assert Image.open("out.png").size == size


def test_metadata_comes_back(place: Path, photograph: np.ndarray) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0xA002] = 40
    stored = Image.fromarray(np.rot90(photograph[:64:2, :80:2]).copy())
    for suffix in ("jpg", "png", "webp"):
        stored.save(f"in.{suffix}", exif=exif, icc_profile=icc, quality=95)
        assert upscale(f"in.{suffix}", "-o", f"out.{suffix}", "--scale", "2") == 0
        result = Image.open(f"out.{suffix}")
        assert result.size == (80, 64)
        assert result.info["icc_profile"] == icc
        found = result.getexif()
        assert found.get(0x0112, 1) == 1
        assert found[0x010F] == "Maker"
        assert found.get_ifd(0x8769)[0xA002] == 80
        upright = np.asarray(result.resize((40, 32)).convert("RGB"), np.float32)
        assert np.abs(upright - photograph[:64:2, :80:2]).mean() < 25  # it stands as it should


def test_alpha_is_enlarged(place: Path, photograph: np.ndarray) -> None:
    alpha = np.zeros((32, 40), np.uint8)
    alpha[:, 20:] = 255
    Image.fromarray(np.dstack([photograph[:64:2, :80:2], alpha])).save("cut.png")
    assert upscale("cut.png", "-o", "out.png", "--scale", "2") == 0
    result = np.asarray(Image.open("out.png"))
    assert result.shape == (64, 80, 4)
    assert (result[:, :36, 3] == 0).all()
    assert (result[:, 44:, 3] == 255).all()
    assert upscale("cut.png", "-o", "out.jpg", "--scale", "2") == 0
    assert (np.asarray(Image.open("out.jpg"))[:, :30] > 240).all()  # on white


def test_hidden_black_leaves_no_fringe() -> None:
    from tsdsr.inference.enlarge import _covered

    image, alpha = np.zeros((1, 3, 40, 40), np.float32), np.zeros((1, 1, 40, 40), np.float32)
    image[..., 15:25, 15:25], alpha[..., 15:25, 15:25] = 0.9, 1
    filled = _covered(image, alpha)
    np.testing.assert_allclose(filled[..., 5:35, 5:35], 0.9, rtol=1e-6)
    assert _covered(image, None) is image


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_come_back(place: Path, photograph: np.ndarray, suffix: str) -> None:
    cv2.imwrite("deep.png", (photograph[:64:2, :80:2].astype(np.uint16) * 257)[..., ::-1])
    assert upscale("deep.png", "-o", f"out.{suffix}", "--scale", "2") == 0
    result = cv2.imread(f"out.{suffix}", cv2.IMREAD_UNCHANGED)
    assert result.dtype == np.uint16
    assert result.shape == (64, 80, 3)
    assert len(np.unique(result)) > 1000
    assert upscale("deep.png", "-o", "out.jpg", "--scale", "2") == 0  # 8 bits, and it says so


def test_grey_stays_grey(place: Path) -> None:
    Image.open("photo.png").convert("L").save("grey.png")
    for suffix in ("png", "jpg", "tif"):
        assert upscale("grey.png", "-o", f"out.{suffix}", "--scale", "2") == 0
        assert Image.open(f"out.{suffix}").mode == "L"


def test_a_bad_file_does_not_stop_the_rest(place: Path, capsys, caplog) -> None:
    Path("in/deep").mkdir(parents=True)
    Image.open("photo.png").save("in/deep/a.png")
    Path("in/b.jpg").write_bytes(Path("photo.png").read_bytes()[:200])
    Path("in/c.png").touch()
    with caplog.at_level("INFO"):
        assert upscale("in", "-o", "out", "--scale", "1") == 1
    assert [path.as_posix() for path in Path("out").rglob("*") if path.is_file()] == ["out/deep/a.png"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("error: in/b.jpg: ")]
    assert "error: in/c.png: the file is empty" in lines
    assert lines[-1].startswith("1 of 3 upscaled, 2 failed, 0 there already;")


def test_a_name_of_two_lines_is_one_line(place: Path, caplog) -> None:
    Path("a\nb.png").touch()
    assert upscale("a\nb.png", "-o", "out.png") == 1
    assert "error: a\\nb.png: the file is empty" in [record.getMessage() for record in caplog.records]


def test_skip_existing(place: Path, caplog) -> None:
    Path("out.png").write_text("precious")
    with caplog.at_level("INFO"):
        assert upscale("photo.png", "-o", "out.png", "--skip-existing") == 0
    assert Path("out.png").read_text() == "precious"
    assert "0 of 1 upscaled, 0 failed, 1 there already" in caplog.text


def test_streams(place: Path, monkeypatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("photo.png").read_bytes())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert upscale("-", "-o", "-", "--scale", "2", "--format", "webp") == 0
    result = Image.open(io.BytesIO(out.getvalue()))
    assert (result.format, result.size) == ("WEBP", (80, 64))


def test_standard_input_that_is_no_picture_is_one_line(place: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    assert upscale("-", "-o", "out.png") == 1
    assert "error: standard input: not a picture in a format that can be read" in caplog.text
    assert not Path("out.png").exists()


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_stream_that_is_closed_is_one_line(place: Path, monkeypatch, capsys, way: str) -> None:
    monkeypatch.setattr(sys, f"std{way}", None)
    assert upscale("-" if way == "in" else "photo.png", "-o", "-") == 2
    assert capsys.readouterr().err == f"error: standard {way}put is closed\n"


def test_a_seed_makes_a_sample_that_can_be_made_again(place: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert upscale("photo.png", "-o", f"{name}.png", "--seed", seed) == 0
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_no_space_leaves_nothing_behind(place: Path, monkeypatch, caplog) -> None:
    from tsdsr.pictures import png

    def full(self: object, rows: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(png.PngWriter, "write", full)
    assert upscale("photo.png", "-o", "new/out.png", "--scale", "1") == 1
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "new/out.png: no space left" in errors[0]
    assert list(Path("new").iterdir()) == []


def test_a_full_temporary_folder_is_the_one_that_is_named(place: Path, monkeypatch, caplog) -> None:
    from tsdsr.inference.tiles import rows

    class Full(io.BytesIO):
        def write(self, values: object) -> int:
            raise OSError(28, "No space left on device")

    (place / "temporary").mkdir()
    monkeypatch.setattr(rows.tempfile, "tempdir", str(place / "temporary"))
    monkeypatch.setattr(rows.tempfile, "SpooledTemporaryFile", lambda max_size: Full())
    assert upscale("photo.png", "-o", "new/out.png", "--scale", "1") == 1
    assert f"{place / 'temporary'}/rows: no space left" in caplog.text
    assert list(Path("new").iterdir()) == []


def test_no_permission_is_one_line(place: Path, monkeypatch, caplog) -> None:
    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr("tsdsr.commands.upscale.atomic_file", denied)
    assert upscale("photo.png", "-o", "out/a.png") == 1
    assert "error: out: Permission denied" in caplog.text


def test_a_file_in_the_way_of_the_output_is_named_and_the_file_aside_is_not(place: Path, caplog) -> None:
    Path("file").touch()
    assert upscale("photo.png", "-o", "file/a.png", "--scale", "1") == 1
    assert upscale("photo.png", "-o", "/proc/a.png", "--scale", "1") == 1
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["error: file: File exists", "error: /proc/a.png: No such file or directory"]


def test_an_interruption_leaves_nothing_behind(place: Path, monkeypatch, capsys) -> None:
    def interrupt(*args: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Upscaler, "strips", interrupt)
    assert upscale("photo.png", "-o", "new/out.png") == 130
    assert list(Path("new").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--scale", "nan", "is not a positive number"),
        ("--scale", "0", "is not a positive number"),
        ("--scale", "9", "is not 1 to 8"),
        ("--scale", "0.5", "is not 1 to 8"),
        ("--scale", "x4", "is not a number"),
        ("--megapixels", "inf", "is not a positive number"),
        ("--width", "-5", "is not a positive number"),
        ("--width", "1.5", "is not a whole number"),
        ("--overlap", "a", "is not a whole number"),
        ("--quality", "101", "is not 1 to 100"),
        ("--seed", "-1", "is not 0 to 2^64 - 1"),
        ("--seed", str(2**64), "is not 0 to 2^64 - 1"),
    ],
)
def test_numbers_that_cannot_be(place: Path, capsys, option: str, value: str, message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        upscale("photo.png", "-o", "x.png", option, value)
    assert f"argument {option}: {value} {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png", "-o", "x.png"], "nothing.png: no such file or folder"),
        (["photo.png", "-o", "photo.png"], "one of the inputs"),
        (["photo.png", "-o", "x.png", "--scale", "2", "--width", "90"], "give the size in one way"),
        (["photo.png", "bad.png", "-o", "out", "--tile", "8"], "tile must be auto or at least"),
        (["photo.png", "bad.png", "-o", "out", "--tile", "128", "--overlap", "-8"], "overlap must be 0 to 64 pixels"),
    ],
)
def test_mistakes_are_one_line_and_status_2(place: Path, capsys, words: list[str], message: str) -> None:
    Path("bad.png").touch()
    assert upscale(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nobody"], "nobody: neither a model's directory nor the name of one"),
        (["--device", "cuda:9"], "device cuda:9"),
        (["--device", "meta"], "device meta"),
        (["--model", "damaged"], "not a readable safetensors file"),
    ],
)
def test_models_and_devices_that_are_not_there(
    tmp_path, model, photograph, monkeypatch, capsys, words, message
) -> None:
    import shutil

    shutil.copytree(model.student_dir, tmp_path / "data/students/damaged")
    shutil.copytree(model.student_dir, tmp_path / "data/students/full")
    shutil.copytree(model.teacher_dir, tmp_path / "data/teacher")
    weights = tmp_path / "data/students/damaged/transformer.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph[:32, :32]).save("photo.png")
    if torch.cuda.device_count() > 9:
        pytest.skip("this machine has a tenth GPU")
    assert upscale("photo.png", "-o", "out.png", "--model", "full", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not Path("out.png").exists()
