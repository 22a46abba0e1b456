"""Degradation: basicsr's implementation compared with ours, on the same drawn parameters, one thread, 512 px.

basicsr's is USMSharp and the chain of RealESRGANModel.feed_data (filter2D, torch's noise, DiffJPEG). Time is the
process's CPU time, which on a quiet machine is the clock's: images per second and core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tsdsr")]  # the oracle is the tests'

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from degradation import agreement  # noqa: E402
from degradation import basicsr_oracle as oracle  # noqa: E402

from tsdsr.config import Params  # noqa: E402
from tsdsr.degradation import DegradationDraw, apply_degradation, draw_degradation  # noqa: E402
from tsdsr.seeding import numpy_generator  # noqa: E402

SIDE, SCALE = 512, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the pictures")
    count = 12 if parser.parse_args().quick else 100
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    hq = photograph()
    config = Params.load(ROOT / "params.yaml").degradation
    draws = [draw_degradation(config, numpy_generator(0, "benchmark", index)) for index in range(count)]
    failures = sorted({line for draw in draws[: count // 4] for line in agreement.exceeded(differences(hq, draw))})
    cases = {name: compare(hq, draws, usm) for name, usm in (("usm_on", True), ("usm_off", False))}
    print(f"{'case':10s}{'basicsr, images/s':>20s}{'ours, images/s':>18s}{'ratio':>8s}")
    for name, case in cases.items():
        print(f"{name:10s}{case['baseline']:20.2f}{case['ours']:18.2f}{case['ratio']:8.1f}")
    for line in failures:
        print(f"out of tolerance: {line}")
    summary = {"name": "degradation", "unit": "images/s", "device": "cpu, 1 thread", "equal": not failures}
    print(json.dumps({**summary, **cases["usm_on"], "images": count, "cases": cases}))


def photograph() -> np.ndarray:
    from skimage import data

    return data.astronaut()[:SIDE, :SIDE]


def differences(hq: np.ndarray, draw: DegradationDraw) -> dict[str, np.ndarray]:
    return agreement.differences(hq, draw, scale=SCALE)


def compare(hq: np.ndarray, draws: list[DegradationDraw], usm: bool) -> dict[str, Any]:
    """Images per second of both, measured in turn so that other load on the machine affects both."""
    tensor = oracle.to_tensor(hq)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def theirs(draw: DegradationDraw) -> object:
        return oracle.degrade(tensor, draw, scale=SCALE, usm=usm)

    def ours(draw: DegradationDraw) -> object:
        return apply_degradation(hq, draw, scale=SCALE, usm_sharpen_target=usm, rng=rng)

    sides = (theirs, ours)
    for side in sides:  # tables, buffers and code pages are there once, as in a long run
        for draw in draws[:4]:
            side(draw)
    seconds = np.array([[_cpu_seconds(side, draw) for side in sides] for draw in draws]).sum(axis=0)
    baseline, mine = len(draws) / seconds
    return {"baseline": float(baseline), "ours": float(mine), "ratio": float(mine / baseline)}


def _cpu_seconds(call: Callable[[DegradationDraw], object], draw: DegradationDraw) -> float:
    start = time.process_time()
    call(draw)
    return time.process_time() - start


if __name__ == "__main__":
    main()
