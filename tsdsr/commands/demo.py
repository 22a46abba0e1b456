"""`tsdsr demo`: a local page that enlarges one photograph at a time. Nothing leaves the computer, and nothing is
kept."""

from __future__ import annotations

import argparse
import html
import importlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsdsr.commands import options
from tsdsr.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from tsdsr.inference.upscaler import Upscaler
    from tsdsr.pictures.reading import Picture

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
_UPLOAD = "128mb"
_PREVIEW = 2048  # pixels of the longer side in the slider
_TIDY = 600  # files older than this many seconds are removed, as often


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, without a heavy import."""
    options.add_model(parser)
    parser.add_argument("--port", type=_port, default=7860, help="port of the page, on 127.0.0.1")
    parser.add_argument(
        "--max-megapixels", type=options.amount, default=16.0, help="maximum size of a result, in millions of pixels"
    )


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 65535")
    return value


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted.

    Returns: 0.

    Raises:
        UserError: Gradio is missing, the model cannot be opened, or the port is taken.
    """
    from tsdsr.inference.opening import DEFAULT, find_model

    @lru_cache(maxsize=1)
    def opened(model: str) -> Upscaler:
        return find_model(model, teacher=args.teacher, dtype=args.dtype, device=args.device).open()

    _gradio()
    find_model(args.model)
    first = args.model or DEFAULT
    opened(first)
    with ExitStack() as stack:
        url = serve(opened, first, args.port, args.max_megapixels, stack)
        logger.info("open %s in a browser; Ctrl-C stops it", url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            logger.info("stopped")
    return 0


def serve(opened: Callable[[str], Upscaler], model: str, port: int, max_megapixels: float, stack: ExitStack) -> str:
    """Start the page in the background.

    Args:
        opened: a function from a model's name to its upscaler.
        model: the initial choice.
        port: on 127.0.0.1.
        max_megapixels: the maximum of a result.
        stack: closing it stops the page and removes its files.

    Returns:
        the page's address.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tsdsr-demo-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    stack.callback(_set_temporary, before)
    _set_temporary(folder)
    page = _page(_gradio(), opened, model, max_megapixels)
    stack.callback(page.close, verbose=False)
    try:
        _, url, _ = page.launch(
            server_name=HOST,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            max_file_size=_UPLOAD,
            theme=_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
    except OSError as error:
        raise UserError(f"port {port} of {HOST} cannot be used ({error}); choose another with --port") from None
    return str(url)


def _set_temporary(folder: str | None) -> None:
    if folder is None:
        os.environ.pop("GRADIO_TEMP_DIR", None)
    else:
        os.environ["GRADIO_TEMP_DIR"] = folder


def _gradio() -> Any:
    """The library, with its usage reports off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        gradio = importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("the page needs Gradio: install the extra `demo`, as in pip install -e '.[demo]'") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs each request to the page
    return gradio


def _page(gr: Any, opened: Callable[[str], Upscaler], model: str, max_megapixels: float) -> Any:
    def enlarged(path: str | None, scale: float, name: str, progress: Any = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        if path is None:
            raise gr.Error("Choose a photograph first.", print_exception=False)
        progress(0, desc="Reading")
        with tempfile.TemporaryDirectory() as folder:  # the page has its own copies of the results
            try:
                before, after, result = restore(
                    opened(name), Path(path), scale, Path(folder), max_megapixels, lambda *tiles: progress(tiles)
                )
            except (UserError, OSError, MemoryError) as error:
                reason = str(error).replace(path, Path(path).name) or "out of memory"
                raise gr.Error(html.escape(reason), print_exception=False) from None
            yield (before, after), gr.DownloadButton(f"Download {result.name}", value=result, interactive=True)

    with gr.Blocks(title="tsdsr", analytics_enabled=False, delete_cache=(_TIDY, _TIDY)) as page:
        gr.Markdown(f"# Enlarge a photograph\nResults have up to {max_megapixels:g} megapixels.")
        with gr.Row():
            with gr.Column(scale=1):
                photograph = gr.File(label="Photograph", file_types=["image"], elem_id="photograph")
                scale = gr.Slider(1, 8, value=4, step=0.5, label="Scale", elem_id="scale")
                name = gr.Dropdown(_models(model), value=model, label="Model")
                start = gr.Button("Enlarge", variant="primary", elem_id="start")
                download = gr.DownloadButton("Download", interactive=False, elem_id="download")
            with gr.Column(scale=2):
                slider = gr.ImageSlider(
                    label="Left: bicubic. Right: the model's", format="png", interactive=False, elem_id="slider"
                )
        start.click(enlarged, [photograph, scale, name], [slider, download], concurrency_limit=1, show_progress="full")
    page.queue(default_concurrency_limit=1, max_size=16)
    return page


def _models(first: str) -> list[str]:
    from tsdsr.inference.opening import model_names

    return list(dict.fromkeys([first, *model_names()]))


def restore(
    upscaler: Upscaler,
    path: Path,
    scale: float,
    folder: Path,
    max_megapixels: float,
    step: Callable[[int, int], Any],
) -> tuple[Image.Image, Image.Image, Path]:
    """Enlarge one photograph; the result keeps its format, if that can be written, and its metadata.

    Args:
        upscaler: ready to run.
        path: the photograph.
        scale: 1 to 8.
        folder: for the result.
        max_megapixels: the maximum of the result.
        step: called with (tiles done, tiles in all).

    Returns:
        the bicubic enlargement and the result for display (8 bits, on white, at most 2048 pixels a side), and the file.

    Raises:
        UserError: the photograph cannot be read or is too small, or the result would be too large.
    """
    from tsdsr.inference.enlarge import Settings, enlarge
    from tsdsr.inference.sizes import TargetSize
    from tsdsr.pictures.formats import FORMATS, by_kind
    from tsdsr.pictures.reading import read_picture, read_size

    settings = Settings(TargetSize(scale=scale))
    width, height = read_size(path)
    rows, columns = settings.target.of(width, height)
    if rows * columns > max_megapixels * 1e6:
        raise UserError(
            f"{path.name}: {width}x{height} at scale {scale:g} is {rows * columns / 1e6:.3g} megapixels, and the page "
            f"makes up to {max_megapixels:g}; choose a smaller scale or photograph, or use tsdsr upscale"
        )
    picture = read_picture(path, path.name)
    form = by_kind(picture.kind)
    result = folder / f"{path.stem}_x{scale:g}{FORMATS[form].suffixes[0]}"
    with result.open("wb") as stream:
        enlarge(upscaler, picture, settings, stream, form, step)
    shrink = min(1.0, _PREVIEW / max(rows, columns))
    size = (max(1, round(columns * shrink)), max(1, round(rows * shrink)))
    return _view(picture, size), _view(read_picture(result, result.name), size), result


def _view(picture: Picture, size: tuple[int, int]) -> Image.Image:
    """A picture of (W, H) = `size` for display, in its own colour space."""
    from PIL import Image

    colours, alpha = _eight_bits(picture.values), picture.alpha
    grey = colours.shape[2] == 1
    image = Image.fromarray(colours[..., 0] if grey else colours)
    if alpha is not None:
        white = Image.new(image.mode, image.size, "white")
        image = Image.composite(image, white, Image.fromarray(_eight_bits(alpha)))
    view = image.resize(size, Image.Resampling.BICUBIC)
    if picture.icc:
        view.info["icc_profile"] = picture.icc
    return view if grey and picture.icc else view.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return values if values.itemsize == 1 else (values // 257).astype("uint8")
