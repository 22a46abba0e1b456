"""The data loader compared with the training step: samples per second of each on one thread, and of the loader at SD3's
shapes. If the ratio is above 1, the step never waits, since each batch is read during the step before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch

from benchmarks import step_sides
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache, Sample, mirrored
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.data.pairs import PairFolder, write_png
from tsdsr.data.synthesis import degrade_again
from tsdsr.models import presets
from tsdsr.models.prompt import Prompt
from tsdsr.training.stepper import Stepper

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches")
    batches = 4 if parser.parse_args().quick else 20
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    params = Params.load(ROOT / "params.yaml")
    with tempfile.TemporaryDirectory() as folder:
        tiny = presets.get("tiny")
        small = data(Path(folder) / "tiny", tiny, side=128, params=params)
        large = data(Path(folder) / "sd3", presets.get("sd3-medium"), side=512, params=params)
        wanted = [[batch * 4 + row for row in range(4)] for batch in range(batches)]
        direct = [small.batch(positions) for positions in wanted]
        equal = all(same(one, two) for one, two in zip(direct, small.prefetched(wanted), strict=True))
        loader = rate(lambda: [small.batch(positions) for positions in wanted], 4 * batches)
        at_sd3 = rate(lambda: [large.batch(positions) for positions in wanted], 4 * batches)
        stepper = Stepper(
            step_sides.untrained(tiny, step_sides.recipe("tiny"), torch.device("cpu")), spans=[range(1000)]
        )
        step = rate(lambda: [train(stepper, batch) for batch in direct[: batches // 2]], 4 * (batches // 2))
    print(f"{'':42s}{'samples/s':>10s}")
    for name, value in (
        ("training step, tiny preset, 128 px", step),
        ("loader, tiny preset, 128 px, online", loader),
        ("loader, SD3-medium's shapes, 512 px, online", at_sd3),
    ):
        print(f"{name:44s}{value:8.1f}")
    summary = {"name": "loader", "baseline": step, "ours": loader, "unit": "samples/s", "ratio": loader / step}
    print(json.dumps({**summary, "device": "cpu, 1 thread", "equal": equal, "sd3_shapes": at_sd3}))


def data(folder: Path, preset: presets.Preset, *, side: int, params: Params) -> DistillationData:
    """Pairs of crops of a bundled photograph and a cache of random latents at the preset's shapes."""
    from skimage.data import hubble_deep_field

    photograph = hubble_deep_field()
    shape = preset.shape["transformer"]
    latent_side = side // 2 ** (len(preset.shape["vae"]["block_out_channels"]) - 1)
    names = [f"sky-c{index:03d}" for index in range(PAIRS)]
    samples = []
    for index, name in enumerate(names):
        hq = np.ascontiguousarray(photograph[8 * index : 8 * index + side, 8 * index : 8 * index + side])
        write_png(folder / "pairs/hq" / f"{name}.png", hq)
        write_png(folder / "pairs/lq" / f"{name}.png", degrade_again(hq, name, 0, params.seed, params))
        for stored in (name, mirrored(name)):
            samples.append(Sample(stored, "", torch.randn(shape["in_channels"], latent_side, latent_side)))
    prompts = [(text, random_prompt(preset)) for text in ("", "default")]
    writer = CacheWriter(folder / "latents", key="", dtype="bfloat16", shard_rows=64)
    writer.add_prompts(prompts)
    writer.add_samples(samples)
    return DistillationData(
        PairFolder(folder / "pairs"),
        LatentCache.open(writer.finish(default_prompt="default", origin={})),
        seed=0,
        degrade=lambda hq, pair, epoch: degrade_again(hq, pair, epoch, params.seed, params),
        flip=True,
    )


def random_prompt(preset: presets.Preset) -> Prompt:
    shape = preset.shape["transformer"]
    return Prompt(
        torch.randn(preset.prompt_tokens, shape["joint_attention_dim"]), torch.randn(shape["pooled_projection_dim"])
    )


def train(stepper: Stepper, batch: Batch) -> None:
    """A whole step; its cost does not depend on the weights."""
    stepper.take(0, step_sides.PHASE, [batch])


def rate(work: Callable[[], Any], samples: int) -> float:
    work()
    start = time.perf_counter()
    work()
    return samples / (time.perf_counter() - start)


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("lq", "hq", "z", "embeds", "pooled"))


if __name__ == "__main__":
    main()
