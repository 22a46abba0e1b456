"""The page: what it does to a photograph, what it refuses, and once through a real browser."""

import argparse
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.cluster.runtime import free_port
from tests import browser
from tsdsr.commands import demo
from tsdsr.commands.main import main
from tsdsr.errors import UserError
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.upscaler import Upscaler

pytestmark = pytest.mark.filterwarnings("ignore")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def upscaler(loaded: TSDSRPipeline) -> Upscaler:
    return loaded.upscaler()


@pytest.fixture
def photo(tmp_path: Path, photograph: np.ndarray) -> Path:
    """A photograph of 48 x 40 pixels with a profile and a maker's name."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    path = tmp_path / "photo.jpg"
    Image.fromarray(photograph[20:220, 120:360]).resize((48, 40)).save(path, exif=exif, icc_profile=SRGB, quality=95)
    return path


def assert_kept(result: Image.Image) -> None:
    assert result.format == "JPEG"
    assert result.size == (96, 80)
    assert result.getexif()[0x010F] == "Maker"
    assert result.info["icc_profile"] == SRGB


def test_a_photograph_comes_back_whole(upscaler: Upscaler, photo: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = tmp_path / "out"
    folder.mkdir()
    before, after, path = demo.restore(upscaler, photo, 2, folder, 1, lambda *tiles: seen.append(tiles))
    assert path.name == "photo_x2.jpg"
    assert_kept(Image.open(path))
    assert seen[-1][0] == seen[-1][1] > 0
    assert before.size == after.size == (96, 80)
    assert before.info["icc_profile"] == after.info["icc_profile"] == SRGB
    assert np.array_equal(before, Image.open(photo).resize((96, 80), Image.Resampling.BICUBIC))
    assert np.array_equal(after, Image.open(path))


def test_transparency_and_16_bits_can_be_seen(upscaler: Upscaler, tmp_path: Path) -> None:
    alpha = np.zeros((20, 24), np.uint8)
    Image.fromarray(np.dstack([np.zeros((20, 24, 3), np.uint8), alpha])).save(tmp_path / "clear.png")
    before, after, path = demo.restore(upscaler, tmp_path / "clear.png", 2, tmp_path, 1, lambda *tiles: None)
    assert Image.open(path).mode == "RGBA"
    for view in (before, after):
        assert (view.mode, view.getextrema()) == ("RGB", ((255, 255),) * 3)
    Image.fromarray(np.full((20, 24), 257 * 100, np.uint16)).save(tmp_path / "grey.png")
    before, _, path = demo.restore(upscaler, tmp_path / "grey.png", 2, tmp_path, 1, lambda *tiles: None)
    assert Image.open(path).mode == "I;16"
    assert (before.mode, before.getextrema()) == ("RGB", ((100, 100),) * 3)


def test_the_slider_shows_no_more_than_a_screen(upscaler: Upscaler, photo: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(demo, "_PREVIEW", 48)
    before, after, path = demo.restore(upscaler, photo, 2, tmp_path, 1, lambda *tiles: None)
    assert before.size == after.size == (48, 40)
    assert Image.open(path).size == (96, 80)


def test_a_result_that_is_too_large_is_refused_before_any_work(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photo.jpg: 48x40 at scale 8 is 0.123 megapixels.*up to 0.01"):
        demo.restore(None, photo, 8, tmp_path, 0.01, lambda *tiles: None)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0"])
def test_a_limit_that_is_no_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", f"--max-megapixels={text}"])
    assert f"{text} is not a positive number" in capsys.readouterr().err


def test_without_gradio_there_is_one_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.count("demo]") == 1


def test_an_unknown_model_is_said_before_the_page_starts(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(UserError, match="nothing-like-it"):
        demo.run(parser.parse_args(["--model", "nothing-like-it"]))


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    with socket.socket() as other, ExitStack() as stack:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="--port"):
            demo.serve(lambda name: None, "full", other.getsockname()[1], 1, stack)  # type: ignore[arg-type, return-value]


@pytest.mark.skipif(browser.EXECUTABLE is None, reason="Chromium is not installed")
def test_in_a_browser(upscaler: Upscaler, photo: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("gradio")
    # Gradio gives its own server 5 s to start and 3 s to answer, which a busy machine may not keep.
    monkeypatch.setattr("gradio.http_server.time", SimpleNamespace(time=lambda: 0.0, sleep=time.sleep))
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: True)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        url = demo.serve(lambda name: upscaler, "full", free_port("127.0.0.1"), 0.01, stack)
        assert url.startswith("http://127.0.0.1:")
        temporary = Path(os.environ["GRADIO_TEMP_DIR"])
        page = stack.enter_context(browser.browser(tmp_path))
        page.open(url)
        page.wait("!!document.querySelector('#photograph input[type=file]')")

        page.choose_file("#photograph input[type=file]", photo)
        page.wait("!!document.querySelector('#photograph a[href*=\"/file=\"]')")  # it has arrived
        start = "document.querySelector('#start').click()"
        page.run(start)
        page.wait("document.body.innerText.includes('makes up to 0.01')")  # 192 x 160 is too large

        number = "document.querySelector('#scale input[type=number]')"
        page.run(f"{number}.value = 2; {number}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        page.run(f"{number}.dispatchEvent(new Event('blur'))")
        page.run(start)
        images = "[...document.querySelectorAll('#slider img')].filter(i => i.complete && i.naturalWidth == 96)"
        page.wait(f"{images}.length == 2")
        page.wait("document.body.innerText.includes('Download photo_x2.jpg')")
        page.screenshot(tmp_path / "page.png")
        page.run("document.querySelector('#download').click()")
        saved = tmp_path / "photo_x2.jpg"
        deadline = time.monotonic() + browser.PATIENCE
        while not saved.exists() and time.monotonic() < deadline:  # it has another name until it is complete
            page.run("1")
            time.sleep(0.1)
        assert_kept(Image.open(saved))
        local = (url, "data:", "blob:")
        assert [address for address in page.requests if not address.startswith(local)] == []
        assert list(temporary.rglob("photo*"))
    assert not temporary.exists()
