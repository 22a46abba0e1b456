"""Scoring a folder: `tsdsr.metrics` compared with a plain loop over pyiqa, both on one core.

    python benchmarks/evaluate.py [--quick]

Both score the same images by PSNR, SSIM and NIQE, the metrics that need no download, from file names to numbers, models
already built. The plain loop is what pyiqa's own documentation shows: one call a metric and an image, which decodes the
image each time. Seconds are of processor time in one thread, which other programs on the machine disturb least. The
scores of both are compared in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tsdsr.metrics import LocalExecutor

SIDE = 512
METRICS = ("psnr", "ssim", "niqe")
TOLERANCE = 1e-4
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")


def main() -> None:
    """Measure in fresh processes, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 images instead of 24")
    count = 4 if parser.parse_args().quick else 24
    with tempfile.TemporaryDirectory() as folder:
        restored, reference = write_images(Path(folder), count)
        plain = in_fresh_process(plain_loop, restored, reference)
        ours = in_fresh_process(score_folder, restored, reference, Path(folder, "cache"))
    difference = max(abs(plain["scores"][m][n] - ours["scores"][m][n]) for m in METRICS for n in plain["scores"][m])
    report(count, plain, ours, difference)


def write_images(folder: Path, count: int) -> tuple[Path, Path]:
    """`count` crops of bundled photographs, and each crop reduced by 4 and enlarged again."""
    import skimage.data

    restored, reference = folder / "restored", folder / "reference"
    restored.mkdir()
    reference.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        photograph = Image.fromarray(getattr(skimage.data, BUNDLED[index % len(BUNDLED)])()).convert("RGB")
        factor = max(1.0, SIDE / min(photograph.size))
        photograph = photograph.resize([round(side * factor) for side in photograph.size], Image.Resampling.LANCZOS)
        left, top = (int(random.integers(side - SIDE + 1)) for side in photograph.size)
        crop = photograph.crop((left, top, left + SIDE, top + SIDE))
        small = crop.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC)
        crop.save(reference / f"{index:03d}.png")
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(restored / f"{index:03d}.png")
    return restored, reference


def in_fresh_process(function: Any, *arguments: Path) -> dict[str, Any]:
    """Call in a new interpreter, so that neither side sees the other's changes or caches."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def plain_loop(restored: Path, reference: Path) -> dict[str, Any]:
    """pyiqa as its documentation uses it."""
    import pyiqa
    import torch

    from tsdsr.metrics import backend, select

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        niqe = str(backend.niqe_parameters(Path(folder)))
        models = {
            metric.name: pyiqa.create_metric(
                metric.backend,
                device=cpu,
                **({"pretrained_model_path": niqe} if metric.name == "niqe" else metric.options),
            )
            for metric in select(METRICS)
        }
    names = sorted(path.name for path in restored.iterdir())
    started = time.process_time()
    scores: dict[str, dict[str, float]] = {}
    seconds = {}
    for metric, model in models.items():
        began = time.process_time()
        scores[metric] = {}
        for name in names:
            files = [str(restored / name)] + ([] if metric == "niqe" else [str(reference / name)])
            scores[metric][name] = float(model(*files))
        seconds[metric] = time.process_time() - began
    return {"scores": scores, "seconds": time.process_time() - started, "by_metric": seconds}


def score_folder(restored: Path, reference: Path, cache: Path) -> dict[str, Any]:
    """Ours: with an empty cache, then with one more metric, then with all scores cached."""
    import torch

    from tsdsr import metrics

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    executor = LocalExecutor(cpu)
    warm_up(executor)

    def timed(names: tuple[str, ...], root: Path) -> tuple[float, metrics.Scores]:
        started = time.process_time()
        scores = metrics.score_folder(restored, reference, names, device=cpu, cache=root, executor=executor)
        return time.process_time() - started, scores

    alone = {name: timed((name,), cache / name)[0] for name in METRICS}
    seconds, scores = timed(METRICS, cache / "all")
    timed(METRICS[:-1], cache / "two")
    added, extended = timed(METRICS, cache / "two")
    known, _ = timed(METRICS, cache / "all")
    return {
        "scores": scores.values,
        "seconds": seconds,
        "by_metric": alone,
        "added": added,
        "computed_when_added": extended.computed,
        "known": known,
    }


def warm_up(executor: LocalExecutor) -> None:
    """Build the models before the clock starts, as for the plain loop."""
    from tsdsr.metrics import ImageBatch

    pixels = np.random.default_rng(0).integers(0, 255, (1, 192, 192, 3), dtype=np.uint8)
    executor.score(ImageBatch(("warm-up",), METRICS, pixels, pixels))


def report(count: int, plain: dict[str, Any], ours: dict[str, Any], difference: float) -> None:
    """The table, then the JSON line."""
    print(f"{count} images of {SIDE}x{SIDE} with references, one core, seconds of processor time")
    print(f"{'':24}{'plain pyiqa':>12}{'ours':>10}{'ratio':>8}")
    for name in METRICS:
        one, two = plain["by_metric"][name], ours["by_metric"][name]
        print(f"{name + ' alone':24}{one:12.2f}{two:10.2f}{one / two:8.1f}")
    print(f"{'all three':24}{plain['seconds']:12.2f}{ours['seconds']:10.2f}{plain['seconds'] / ours['seconds']:8.1f}")
    print(f"{'niqe added to two':24}{'':12}{ours['added']:10.2f}   computed {ours['computed_when_added']} scores")
    print(f"{'scored before':24}{'':12}{ours['known']:10.2f}")
    print(f"largest difference of a score: {difference:.1e} (tolerance {TOLERANCE:g})")
    result = {
        "name": "evaluate",
        "baseline": "plain loop over pyiqa (psnr, ssim, niqe), one core",
        "ours": "tsdsr.metrics.score_folder, one core, empty cache",
        "unit": "seconds",
        "baseline_seconds": round(plain["seconds"], 3),
        "ours_seconds": round(ours["seconds"], 3),
        "ratio": round(plain["seconds"] / ours["seconds"], 2),
        "images": count,
        "added_metric_seconds": round(ours["added"], 3),
        "known_seconds": round(ours["known"], 3),
        "largest_difference": difference,
        "equal": difference <= TOLERANCE,
        "device": "cpu",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
