"""Shared by the benchmarks: time, and a machine's peak matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

TOLERANCE = 1e-4  # relative, in float32


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(seconds, wall seconds): CPU time of the process on a CPU, wall time on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return (cpu_s if device.type == "cpu" else wall_s), wall_s


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix product, as the machine's peak."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    times = [timed(lambda: a @ b, device)[0] for _ in range(7)]
    return 2 * side**3 / min(times)
