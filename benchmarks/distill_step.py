"""One training step: ours compared with a literal version of Algorithm 1, on the same weights, batch and noise.

    python benchmarks/distill_step.py [--quick] [--profile] [--preset tiny|sd3-medium] [--threads N]
                                      [--precision float32|bfloat16] [--compiled] [--fp8 | --no-fp8]

Checks that every loss and every gradient agree (relative 1e-4 in float32), then times whole steps - both turns,
clipping and AdamW - alternating the two, and ours with compiled blocks if asked for. Approximations are reported
separately from this exact ratio: ours with psi on the photographs' trajectories precomputed
(`distill.tsd.trajectory_draws`), whose gradient equals the exact one at equal draws; with FP8 products
(`distill.fp8_scores`; benchmarks/tiny_distill.py has the cosine of its gradient); with both; and LPIPS on a random crop
of the decoded image, with its gradient's cosine at z_hat to that of the whole. The column GFLOP does not count FP8
products. The last line is JSON. On a CPU the time is the process's CPU time at one thread, which other programs affect
least, with wall time beside it. On a GPU steps are timed in bfloat16, in which people train there: frozen weights in
bfloat16, adapters in float32, the literal version's networks under autocast.

SD3-medium's shape, with random weights, is the default on a GPU of 80 GB, which the check in float32 needs; else tiny.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import TOLERANCE, matmul_peak, timed
from benchmarks.step_sides import RECIPES, Literal, Ours, build
from tests.reference.measuring import compare, peak_memory
from tsdsr import seeding
from tsdsr.models import fp8

LARGE = 70 * 2**30  # bytes: a GPU of 80 GB has more
COMPILED, PRECOMPUTED, FP8, BOTH = "compiled", "precomputed", "fp8", "both"
APPROXIMATE = {PRECOMPUTED: "precomputed_trajectories", FP8: "fp8_scores", BOTH: "both"}
CROPS = (0.5, 0.75)  # of the picture's side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--profile", action="store_true", help="print the costliest operations of both")
    large = torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory > LARGE
    parser.add_argument("--preset", choices=RECIPES, default="sd3-medium" if large else "tiny")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
        help="of the frozen weights in the steps that are timed",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="time ours with compiled blocks too, minutes to compile"
    )
    parser.add_argument(
        "--fp8",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available() and fp8.supports(torch.device("cuda")),
        help="time ours with FP8 products too, by default on a GPU that has them",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions, of ten bits; too few for the check
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.preset == "sd3-medium" and device.type == "cpu":
        parser.error("sd3-medium's networks are too large for a CPU's memory; there is no GPU here (--preset tiny)")
    with tempfile.TemporaryDirectory() as folder:
        sides = build(options.preset, device, folder)
        difference = check(*sides[:2])
        if options.precision != "float32":
            del sides
            gc.collect()  # its memory: methods and their turns refer to each other
            sides = build(options.preset, device, f"{folder}/{options.precision}", getattr(torch, options.precision))
        measure(options, device, difference, *sides)


def check(ours: Ours, literal: Literal) -> float:
    found = ours.gradients()
    difference, where = compare(found, literal.gradients())
    print(f"largest relative difference of {len(found)} losses and gradients: {difference:.2e} ({where})")
    return difference


def failure(side: Ours) -> str:
    """The error of one step, as of a card without the kernel; empty if it works. The other sides are still measured."""
    try:
        side.whole_step(0)
    except RuntimeError as error:
        print(f"no FP8 products: {error}")
        return f"{error}"
    return ""


def crop_cosines(ours: Ours) -> dict[str, float]:
    """By crop size (share of the image's side): the mean cosine of LPIPS's gradients at z_hat, crop and whole image."""
    method, batch = ours.method, ours.batch
    z_hat = batch.z.clone().requires_grad_(True)
    x_hat = method.student.decode(z_hat).clamp(-1, 1)

    def gradient(cut: tuple[slice, slice]) -> torch.Tensor:
        term = method.inputs.perceptual(x_hat[..., cut[0], cut[1]], batch.hq[..., cut[0], cut[1]]).mean()
        return torch.autograd.grad(term, z_hat, retain_graph=True)[0].flatten(1)

    exact, side, draw = gradient((slice(None), slice(None))), x_hat.shape[-1], seeding.generator(0, "crops")
    found = {}
    for share in CROPS:
        size, cosines = int(share * side), []
        for _ in range(4):
            top, left = torch.randint(side - size + 1, (2,), generator=draw).tolist()
            cut = slice(top, top + size), slice(left, left + size)
            cosines.append(torch.nn.functional.cosine_similarity(gradient(cut), exact).mean())
        found[f"{share:g}"] = round(float(torch.stack(cosines).mean()), 3)
    return found


def measure(
    options: argparse.Namespace,
    device: torch.device,
    difference: float,
    ours: Ours,
    literal: Literal,
    precomputed: Ours,
) -> None:
    sides: dict[str, Any] = {"literal": literal, "ours": ours, PRECOMPUTED: precomputed}
    if options.compiled:
        torch._dynamo.config.recompile_limit = 64  # graphs: by set of adapters, kind of block, rows and gradient
        sides[COMPILED] = Ours(ours.method, ours.batch, compiled=True)
    problem = ""
    if options.fp8:
        given = {"fp8_scores": True, "compiled": options.compiled}
        fp8_sides = {
            FP8: Ours(ours.method, ours.batch, **given),
            BOTH: Ours(ours.method, ours.batch, precomputed.trajectories, **given),
        }
        problem = failure(fp8_sides[FP8])
        sides |= {} if problem else fp8_sides
    repeats = 3 if options.quick else 9
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    flops, memory = {}, {}
    for name, side in sides.items():
        with FlopCounterMode(display=False) as counter:
            side.whole_step(0)
        flops[name] = counter.get_total_flops()
        memory[name] = peak_memory(lambda side=side: side.whole_step(0), device)
    for repeat in range(repeats):
        for name, side in sides.items():
            seconds, wall_seconds = timed(lambda side=side, repeat=repeat: side.whole_step(repeat), device)
            cpu[name].append(seconds)
            wall[name].append(wall_seconds)
    crops = crop_cosines(ours)
    print(f"LPIPS on a random crop, cosine of its gradient at z_hat by the crop's share of a side: {crops}")
    if options.profile:
        for name, side in sides.items():
            profile(side, name, device)
    peak = matmul_peak(device, options.precision)
    report(sides, cpu, wall, flops, memory, peak, crops, device, options, difference, problem)


def report(
    sides: dict[str, Any],
    cpu: dict[str, list[float]],
    wall: dict[str, list[float]],
    flops: dict[str, int],
    memory: dict[str, int],
    peak: float,
    crops: dict[str, float],
    device: torch.device,
    options: argparse.Namespace,
    difference: float,
    problem: str,
) -> None:
    def ratios(name: str) -> dict[str, float]:
        return {
            "ours": best[name] * 1e3,
            "ratio": round(best["literal"] / best[name], 3),
            "ratio_to_ours": round(best["ours"] / best[name], 3),
        }

    name_of = torch.cuda.get_device_name() if device.type == "cuda" else (platform.processor() or platform.machine())
    best = {name: median(cpu[name]) for name in sides}
    print(f"\n{options.preset}, {options.precision}, {name_of}, {options.threads} thread(s)")
    print(f"matmul peak {peak / 1e9:.1f} GFLOP/s")
    print(f"{'':14}{'ms':>10}{'wall ms':>10}{'GFLOP':>10}{'of peak':>10}{'peak MiB':>10}")
    for name in sides:
        row = best[name] * 1e3, median(wall[name]) * 1e3, flops[name] / 1e9, flops[name] / best[name] / peak
        print(f"{name:14}{row[0]:10.1f}{row[1]:10.1f}{row[2]:10.2f}{row[3]:10.1%}{memory[name] / 2**20:10.1f}")
    result = {
        "name": "distill_step",
        "preset": options.preset,
        "precision": options.precision,
        "baseline": best["literal"] * 1e3,
        "ours": best["ours"] * 1e3,
        "unit": "ms of CPU time a step" if device.type == "cpu" else "ms a step",
        "ratio": round(best["literal"] / best["ours"], 3),
        "compiled": ratios(COMPILED) if COMPILED in sides else None,
        "approximate": {
            **{key: ratios(name) for name, key in APPROXIMATE.items() if name in sides},
            "lpips_on_a_crop": {"cosine_by_share_of_a_side": crops},
        },
        "memory_ratio": round(memory["literal"] / memory["ours"], 3),
        "flops": flops,
        "share_of_matmul_peak": round(flops["ours"] / best["ours"] / peak, 3),
        "device": name_of,
        "threads": options.threads,
        "largest_difference": difference,
        "fp8_failure": problem,
        "equal": difference < TOLERANCE and not problem,
    }
    print(json.dumps(result))


def profile(side: Any, label: str, device: torch.device) -> None:
    with torch.profiler.profile() as profiled:  # of the CPU, and of a GPU where there is one
        side.whole_step(0)
    print(f"\n{label}: where the time goes")
    key = f"self_{device.type}_time_total"
    print(profiled.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=40))


if __name__ == "__main__":
    main()
