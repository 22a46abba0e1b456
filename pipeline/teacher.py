"""teacher: the SD3-format teacher, data/teacher - trained here (preset tiny), or named and checked (sd3-medium).

Reads the params sections seed, prompts and teacher, and the HQ sides of data/pairs.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline import stage
from tsdsr import files
from tsdsr.config import Params
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.models import presets, text
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.models.quiet import quiet

PAIRS = Path("data/pairs")
OUT = Path("data/teacher")
CURVE = Path("reports/curves/teacher.csv")
METRICS = Path("reports/metrics/teacher.json")
CURVE_EVERY = 10  # steps a row of the curve averages

log = logging.getLogger("teacher")


def main() -> None:
    make(stage.load_params(__doc__), PAIRS, OUT, CURVE, METRICS)


def make(params: Params, pairs: Path, out: Path, curve: Path, metrics: Path) -> None:
    """Write the teacher's directory, its loss curve and its measures."""
    preset = presets.get(params.teacher.preset)
    train = train_tiny if preset.trained else point_to_source
    report, rows = train(preset, params, pairs, out)
    _write_curve(curve, rows)
    files.write_json(metrics, report)


Result = tuple[dict[str, Any], list[dict[str, float]]]


def point_to_source(preset: presets.Preset, params: Params, pairs: Path, out: Path) -> Result:
    """Check a finished teacher and record where it is; every later stage loads it from there."""
    source = params.teacher.source
    if source is None:
        raise UserError(f"teacher.source: the preset {preset.name} needs a hub id or a local directory, found null")
    record = teachers.inspect(source, preset)
    with files.atomic_directory(out) as aside:
        files.write_json(aside / teachers.RECORD, record)
    log.info("%s: a teacher of preset %s; %s points to it", source, preset.name, out)
    return {"preset": preset.name, "source": record["source"], "revision": record["revision"]}, []


def train_tiny(preset: presets.Preset, params: Params, pairs: Path, out: Path) -> Result:
    """Train the autoencoder, then the transformer, on the training pairs' HQ sides; measure on the test pairs'."""
    from diffusers import StableDiffusion3Pipeline

    from tsdsr.training.teacher import train_flow, train_vae

    if params.teacher.source is not None:
        raise UserError(f"teacher.source: the preset {preset.name} is trained here; set it to null")
    torch.set_num_threads(params.teacher.threads)
    config = params.teacher
    train, test = PairFolder(pairs / "train"), PairFolder(pairs / "test")
    images = torch.stack([read_image(train.hq_path(name)) for name in train.ids])
    curve = Curve()

    vae = presets.build_vae(preset, seed=params.seed)
    with progress("teacher: autoencoder", config.vae.steps) as show:
        train_vae(vae, images, config.vae, seed=params.seed, on_step=curve.watch(show))
    plain = LatentCodec(vae, config.use_shift)
    modes = encode_all(plain, images)
    vae.register_to_config(scaling_factor=round(1.0 / float(modes.std()), 6))
    latents = torch.cat([modes, encode_all(plain, images.flip(-1))]) * vae.config.scaling_factor

    captions = [train.caption(name) for name in train.ids]
    distinct = [*sorted(set(captions) - {""}), ""]
    components = text.build_text(preset, [*distinct, params.prompts.default], seed=params.seed)
    transformer = presets.build_transformer(preset, seed=params.seed)
    scheduler = presets.build_scheduler(preset)
    pipe = StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **components)
    prompts = text.encode_prompts(pipe, distinct)
    with progress("teacher: transformer", config.flow.steps) as show:
        train_flow(
            transformer,
            latents,
            [distinct.index(caption) for caption in captions] * 2,
            prompts,
            config.flow,
            FlowSchedule.from_scheduler(scheduler),
            seed=params.seed,
            on_step=curve.watch(show, offset=config.vae.steps),
        )
    report = measure(pipe, test, statistics=(latents.mean((0, 2, 3)), latents.var((0, 2, 3))), params=params)
    with files.atomic_directory(out) as aside, quiet():
        pipe.save_pretrained(aside)
        record = {"format": teachers.FORMAT, "preset": preset.name, "source": None, "revision": None}
        files.write_json(aside / teachers.RECORD, record)
    return report, curve.rows


def measure(pipe: Any, test: PairFolder, *, statistics: tuple[Tensor, Tensor], params: Params) -> dict[str, Any]:
    """What `tsdsr.training.teacher_report` says of the test pairs."""
    from tsdsr.training.teacher_report import flow_by_bin, round_trip_psnr

    codec = LatentCodec(pipe.vae, params.teacher.use_shift)
    images = [read_image(test.hq_path(name)) for name in test.ids]
    with torch.no_grad():
        latents = [codec.encode(image[None])[0] for image in images]
    flow = flow_by_bin(
        pipe.transformer,
        FlowSchedule.from_scheduler(pipe.scheduler),
        latents=latents,
        prompts=text.encode_prompts(pipe, [test.caption(name) for name in test.ids]),
        statistics=statistics,
        seed=params.seed,
    )
    psnr = round_trip_psnr(codec, images)
    log.info("autoencoder on %d test images: %.2f dB", len(images), psnr)
    for name, losses in flow.items():
        log.info("flow loss %s: " + ", ".join(f"{who} %.3f" for who in losses), name, *losses.values())
    return {"preset": params.teacher.preset, "vae_psnr_test": psnr, "flow": flow}


@torch.no_grad()
def encode_all(codec: LatentCodec, images: Tensor, rows: int = 8) -> Tensor:
    return torch.cat([codec.encode(part) for part in images.split(rows)])


def read_image(path: Path) -> Tensor:
    """A pair's half: [3,H,W] in [-1, 1]."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}; run the stage prepare-degradations") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


class progress:
    """A bar with time left and the last losses, for a `with` block."""

    def __init__(self, title: str, total: int) -> None:
        self._bar = tqdm(total=total, desc=title, unit="step")
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        self._redirect.__enter__()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._redirect.__exit__(None, None, None)

    def _show(self, values: dict[str, float]) -> None:
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()}, refresh=False)
        self._bar.update()


class Curve:
    """Losses by step, averaged over `CURVE_EVERY` steps; the transformer's steps follow the autoencoder's."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []

    def watch(
        self, show: Callable[[dict[str, float]], None], offset: int = 0
    ) -> Callable[[int, dict[str, float]], None]:
        def on_step(step: int, values: dict[str, float]) -> None:
            show(values)
            self._recent.append(values)
            if step % CURVE_EVERY == 0:
                means = {name: sum(row[name] for row in self._recent) / len(self._recent) for name in values}
                self.rows.append({"step": offset + step, **means})
                self._recent.clear()

        return on_step


def _write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    columns = ["step", "vae_reconstruction", "vae_divergence", "flow"]
    with files.atomic_file(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    stage.run(main)
