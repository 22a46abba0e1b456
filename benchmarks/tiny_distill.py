"""A short distillation from the shipped teacher, on a GPU if there is one: seconds per step compared with the CPU's.

    python benchmarks/tiny_distill.py [--quick] [--device auto|cpu|cuda] [--photographs DIR]

Pairs from photographs (the bundled ones by default), prompts and latents by the teacher, then
`tsdsr.training.distillation` with the recipe of params.yaml from its start to an exported student, as a worker runs it.
Its first steps are taken on the CPU as well: draws are the same on both, so that their losses must agree to 2 %, what
float32 products of 10 bits' mantissa leave. A student that is not finite, or a loss that is not, fails. Then the TSD
term's gradient at the trained student's latents is computed with FP8 products too (`distill.fp8_scores`), for several
scales of guidance: its cosine to the exact one must be 0.99 at the recipe's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from pipeline.precompute import precompute  # noqa: E402
from pipeline.tracking.provenance import hardware  # noqa: E402
from tsdsr import device as devices  # noqa: E402
from tsdsr.config import Params  # noqa: E402
from tsdsr.config.methods.scores import GuidanceConfig  # noqa: E402
from tsdsr.data.cache import LatentCache  # noqa: E402
from tsdsr.data.dataset import DistillationData  # noqa: E402
from tsdsr.data.pairs import PairFolder, pair_id, write_png  # noqa: E402
from tsdsr.data.photographs import find_photographs  # noqa: E402
from tsdsr.data.reading import read_photograph  # noqa: E402
from tsdsr.data.synthesis import make_pair  # noqa: E402
from tsdsr.inference.opening import DEFAULT, SHIPPED, TEACHER  # noqa: E402
from tsdsr.methods.tsdsr import TSDSR  # noqa: E402
from tsdsr.models import fp8  # noqa: E402
from tsdsr.models.student import WEIGHTS, upsample  # noqa: E402
from tsdsr.training.checkpoint import Stopped  # noqa: E402
from tsdsr.training.distillation import (  # noqa: E402
    DistillJob,
    distill,
    online_degradation,
    trained_method,
)
from tsdsr.training.trainer import Callbacks  # noqa: E402

COMPARED = 3  # steps that the CPU takes too
TOLERANCE = 0.02
LEAST_COSINE, BATCHES = 0.99, 4
GUIDANCE = (1.0, 1.5, 3.0, 7.5)  # 1.5 is the recipe's, 7.5 the paper's
SIZES = {"side": 128, "crops": 4, "steps": 200, "batch_size": 6, "tsd": {}}
QUICK = {"side": 64, "crops": 1, "steps": 4, "batch_size": 2, "tsd": {"dasm": {"steps": 1}}}
BASE = SHIPPED / DEFAULT / TEACHER


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pictures and a few steps")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--photographs", default="bundled", help="a folder of photographs")
    options = parser.parse_args()
    device = devices.pick(options.device)
    devices.require(device, "--device")
    sizes = QUICK if options.quick else SIZES
    params = recipe(sizes)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root / "pairs", options.photographs, sizes["crops"], params)
        precompute(params, root / "pairs", BASE, root / "latents", root / "growing")
        baseline, wanted = run(params, root, "start", torch.device("cpu"), COMPARED)
        ours, found = run(params, root, "whole", device, sizes["steps"])
        finite = all(
            bool(tensor.isfinite().all())
            for name in WEIGHTS
            for tensor in load_file(root / "whole/out" / name).values()
        )
        cosines, problem = {}, ""
        try:
            cosines = fp8_cosines(params, job(params, root, "whole"), device) if fp8.supports(device) else {}
        except RuntimeError as error:  # a card without the kernel
            problem = f"{error}"
    apart, own_guidance = largest_difference(found, wanted), str(params.distill.guidance_scale.teacher)
    result = {
        "name": "tiny_distill",
        "baseline": baseline,
        "ours": ours,
        "unit": f"s a step of {sizes['batch_size']} photographs of {sizes['side']} px; the baseline is the CPU's",
        "ratio": round(baseline / ours, 3),
        "steps": sizes["steps"],
        "device": device.type,
        "hardware": hardware(),
        "largest_difference": apart,
        "finite": finite,
        "fp8_cosine_by_guidance": cosines,
        "fp8_failure": problem,
        "equal": apart <= TOLERANCE and finite and not problem and cosines.get(own_guidance, 1) >= LEAST_COSINE,
    }
    print(f"{result['unit']}: CPU {baseline:.3f}, {device.type} {ours:.3f}; losses {apart:.1e} apart")
    print(
        f"cosine of the TSD gradient with FP8 products to the exact one, by guidance: {cosines or problem or 'no FP8'}"
    )
    print(json.dumps(result))
    if not result["equal"]:
        sys.exit(1)


def recipe(sizes: dict[str, Any]) -> Params:
    """params.yaml's recipe, in this process and for the shipped teacher, with every step logged."""
    return Params.load(ROOT / "params.yaml").overlay(
        {
            "data": {"crop_size": sizes["side"]},
            "teacher": {"preset": DEFAULT},
            "precompute": {"flips": True},
            "distill": {
                "steps": sizes["steps"],
                "batch_size": sizes["batch_size"],
                "num_workers": 0,
                "threads_per_worker": torch.get_num_threads(),
                "tsd": sizes["tsd"],
                "log_every": 1,
                "checkpoint": {"every": 100},
            },
        }
    )


def write_pairs(folder: Path, source: str, crops: int, params: Params) -> None:
    for reference in find_photographs(source):
        photograph = read_photograph(reference.path, params.prepare.max_megapixels)
        if min(photograph.shape[:2]) < params.data.crop_size:
            continue
        for crop in range(crops):
            name = pair_id(reference.id, crop)
            for side, pixels in zip(("lq", "hq"), make_pair(photograph, reference.id, crop, 0, params.seed, params)):
                write_png(folder / side / f"{name}.png", pixels)
            caption = folder / "captions" / f"{name}.txt"
            caption.parent.mkdir(exist_ok=True)
            caption.write_text("a photograph\n", encoding="utf-8")
    print(f"{len(PairFolder(folder))} pairs of {params.data.crop_size} px")


def run(
    params: Params, root: Path, label: str, device: torch.device, stop_after: int
) -> tuple[float, list[dict[str, float]]]:
    """Train the recipe in `root/label` up to `stop_after`; returns a step's median seconds and each step's values."""
    rows: list[dict[str, float]] = []
    ended: list[float] = []

    def on_step(step: int, terms: dict[str, float]) -> None:
        ended.append(time.perf_counter())
        rows.append(dict(terms))

    with suppress(Stopped):
        callbacks = Callbacks(on_step=on_step, stop=lambda: len(rows) == stop_after)
        distill(params, job(params, root, label), device=device, callbacks=callbacks)
    return median(after - before for before, after in pairwise(ended)), rows


def job(params: Params, root: Path, label: str) -> DistillJob:
    own = {name: root / label / name for name in ("out", "curve", "checkpoints", "diagnostics", "validation")}
    shared = {name: root / name for name in ("pairs", "latents", "targets")}
    return DistillJob("tiny", params.seed, teacher=BASE, guarded=False, **shared, **own)


@torch.no_grad()
def fp8_cosines(params: Params, work: DistillJob, device: torch.device) -> dict[str, float]:
    """By guidance: of the TSD term's gradient at z_hat with FP8 products to the exact one, after a run; the mean."""
    method, cache = trained_method(params, work, device), LatentCache.open(work.latents, verify=False)
    assert isinstance(method, TSDSR)
    config, inputs = params.distill, method.inputs
    data = DistillationData(PairFolder(work.pairs), cache, seed=0, degrade=online_degradation(params), flip=True)
    fp8.install(inputs.transformer)
    cosines: dict[float, list[float]] = {scale: [] for scale in GUIDANCE}
    for number in range(BATCHES):
        batch = data.batch(range(number * config.batch_size, (number + 1) * config.batch_size)).to(device)
        z_hat = method.student(upsample(batch.lq, inputs.scale), inputs.default)
        for scale, found in cosines.items():
            guidance, directions = GuidanceConfig(teacher=scale, fake_score=scale), []
            for switch in (False, True):
                changes = {"fp8_scores": switch, "guidance_scale": guidance}
                method.inputs = replace(inputs, config=config.model_copy(update=changes))
                directions.append(method.tsd(z_hat, batch, dasm=True).direction.flatten())
            found.append(float(torch.cosine_similarity(*directions, dim=0)))
    return {str(scale): round(mean(found), 4) for scale, found in cosines.items()}


def largest_difference(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> float:
    """The largest relative difference of a loss over the steps that both took."""
    return max(
        abs(row[name] - value) / abs(value)
        for row, values in zip(found, wanted, strict=False)
        for name, value in values.items()
    )


if __name__ == "__main__":
    main()
