"""teacher: the SD3-format teacher, data/teacher - trained here, or located and checked (`teacher.source`).

Reads the params sections seed, prompts and teacher, and the HQ sides of data/pairs. After an interruption it continues
from its last checkpoint when started again, and ends with the same bytes. A second run at the same time is refused.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tsdsr
from pipeline.precompute import rounding
from pipeline.process import locks
from pipeline.stages import fine_tuning, lineage, restorer, stage
from pipeline.stages.teacher_work import Work
from tsdsr import device, files
from tsdsr.config import Params
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder, write_png
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.methods.teacher import LatentsInMemory
from tsdsr.models import presets, text
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.models.quiet import quiet
from tsdsr.training.teacher import Values, refine_decoder, train_flow, train_vae

PAIRS = Path("data/pairs")
OUT = Path("data/teacher")
CURVE = Path("reports/curves/teacher.csv")
METRICS = Path("reports/metrics/teacher.json")
SAMPLES, SAMPLED = "samples.png", 8  # in the teacher's directory; captions
UNFINISHED = Path(".tsdsr/checkpoints/teacher")
LOCK = Path(".tsdsr/running/teacher/lock")
# A change of these invalidates checkpoints.
LIBRARY = (
    "data",
    "losses",
    "methods/base.py",
    "methods/decoder.py",
    "methods/restorer.py",
    "methods/teacher.py",
    "models",
    "flow.py",
    "seeding.py",
    "training/optim.py",
    "training/stepper.py",
    "training/teacher.py",
    "training/trainer.py",
)
CODE = [Path(__file__), *(Path(tsdsr.__file__).parent / name for name in LIBRARY)]

log = logging.getLogger("teacher")


def main() -> None:
    params = stage.load_params(__doc__)
    with locks.exclusive_lock(LOCK, "the stage teacher"), lineage.making(lineage.TEACHER, params):
        make(params, PAIRS, OUT, CURVE, METRICS, UNFINISHED)


def make(params: Params, pairs: Path, out: Path, curve: Path, metrics: Path, unfinished: Path) -> None:
    """Write the teacher's directory (completely or not at all), its loss curve and its metrics.

    `unfinished` keeps the progress of an interrupted run; it is removed last.
    """
    preset = presets.get(params.teacher.preset)
    train = train_tiny if preset.trained and params.teacher.source is None else point_to_source
    work = Work(unfinished, params)
    report = train(preset, params, pairs, work)
    if params.teacher.finetune.enabled:
        report |= fine_tuning.train(params, pairs, work, CODE)
    if params.teacher.restorer.enabled:
        restorer.train(params, pairs, work, CODE)
    files.put_in_place(work.teacher, out)
    _write_curve(curve, work.curve)
    files.write_json(metrics, report)
    shutil.rmtree(unfinished)


def point_to_source(preset: presets.Preset, params: Params, pairs: Path, work: Work) -> dict[str, Any]:
    """Check a finished teacher and record where it is; every later stage loads it from there."""
    source = params.teacher.source
    if source is None:
        raise UserError(f"teacher.source: the preset {preset.name} needs a hub id or a local directory, found null")
    record = teachers.inspect(source, preset)
    files.write_json(work.teacher / teachers.RECORD, record)
    log.info("recorded %s, a teacher of preset %s", source, preset.name)
    return {"preset": preset.name, "source": record["source"], "revision": record["revision"]}


def train_tiny(preset: presets.Preset, params: Params, pairs: Path, work: Work) -> dict[str, Any]:
    """Train the autoencoder, then the transformer, on the training pairs' HQ sides; measure on the test pairs'."""
    from diffusers import StableDiffusion3Pipeline

    torch.set_num_threads(params.teacher.threads)
    config = params.teacher
    train, test = PairFolder(pairs / "train"), PairFolder(pairs / "test")
    images = torch.stack([read_image(train.hq_path(name)) for name in train.ids])
    captions = [train.caption(name) for name in train.ids]
    key = {
        "images": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        "captions": captions,
        "prompt": params.prompts.default,
        "shape": preset.shape,
        "config": config.model_dump(exclude={"checkpoint", "finetune", "restorer"}),
        "seed": params.seed,
        "rounding": rounding(),
        "code": files.sha256_code(*CODE),
    }

    place = device.pick()
    vae = presets.build_vae(preset, seed=params.seed).to(place)
    work.train(
        "autoencoder",
        config.vae.steps,
        key,
        lambda session: train_vae(vae, images, config.vae, seed=params.seed, session=session),
    )
    if config.decoder.steps:
        work.train(
            "decoder",
            config.decoder.steps,
            key,
            lambda session: refine_decoder(vae, images, config.decoder, seed=params.seed, session=session),
        )
    plain = LatentCodec(vae, config.use_shift)
    modes = encode_all(plain, images)
    vae.register_to_config(scaling_factor=round(1.0 / float(modes.std()), 6))
    latents = torch.cat([modes, encode_all(plain, images.flip(-1))]) * vae.config.scaling_factor
    vae.cpu()

    distinct = [*sorted(set(captions) - {""}), ""]
    components = text.build_text(preset, [*distinct, params.prompts.default], seed=params.seed)
    transformer = presets.build_transformer(preset, seed=params.seed)
    scheduler = presets.build_scheduler(preset)
    pipe = StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **components)
    prompts = text.encode_prompts(pipe, distinct)
    data = LatentsInMemory(latents, [distinct.index(caption) for caption in captions] * 2, prompts, prompts[-1])
    work.train(
        "transformer",
        config.flow.steps,
        key,
        lambda session: train_flow(
            transformer.to(place),
            dict(transformer.named_parameters()),
            data,
            config.flow,
            FlowSchedule.from_scheduler(scheduler),
            seed=params.seed,
            shift_positions=True,
            session=session,
        ),
    )
    transformer.cpu()
    report = measure(pipe, test, statistics=(latents.mean((0, 2, 3)), latents.var((0, 2, 3))), params=params)
    with quiet():
        pipe.save_pretrained(work.teacher)
    report["samples"] = paint(pipe, distinct, side=images.shape[-1], params=params, path=work.teacher / SAMPLES)
    record = {"format": teachers.FORMAT, "preset": preset.name, "source": None, "revision": None}
    files.write_json(work.teacher / teachers.RECORD, record)
    return report


def measure(pipe: Any, test: PairFolder, *, statistics: tuple[Tensor, Tensor], params: Params) -> dict[str, Any]:
    """The metrics of `tsdsr.training.teacher_report` on the test pairs."""
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


def paint(pipe: Any, captions: list[str], *, side: int, params: Params, path: Path) -> list[str]:
    """Write the sheet of samples; returns the captions of its columns, which repeat where there are few."""
    from tsdsr.training.teacher_report import samples

    chosen = list(itertools.islice(itertools.cycle([caption for caption in captions if caption] or [""]), SAMPLED))
    *prompts, null = text.encode_prompts(pipe, [*chosen, ""])
    sheet = samples(
        pipe.transformer,
        LatentCodec(pipe.vae, params.teacher.use_shift),
        FlowSchedule.from_scheduler(pipe.scheduler),
        prompts=prompts,
        null=null,
        side=side,
        seed=params.seed,
    )
    write_png(path, sheet)
    return chosen


@torch.no_grad()
def encode_all(codec: LatentCodec, images: Tensor, rows: int = 8) -> Tensor:
    return torch.cat([codec.encode(part.to(codec.vae.device)).cpu() for part in images.split(rows)])


def _write_curve(path: Path, rows: list[Values]) -> None:
    terms = ["reconstruction", "texture", "adversarial"]
    decoder = [*(f"decoder_{term}" for term in terms), "discriminator"]
    flows = ["flow", "finetune", "restorer"]
    columns = ["step", "vae_reconstruction", "vae_divergence", "vae_texture", *decoder, *flows]
    with files.atomic_file(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    stage.run(main)
