"""What benchmarks measure: time, peak memory, a machine's fastest product, and how far two sides are apart."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-4  # relative, in float32


def compare(ours: dict[str, Tensor], literal: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference, and where; a gradient of mere rounding is held against the others."""
    assert ours.keys() == literal.keys(), sorted(ours.keys() ^ literal.keys())[:5]
    floor = 1e-6 * max(float(value.norm()) for name, value in literal.items() if not name.startswith("loss."))
    apart = {
        name: float((ours[name] - value).norm()) / max(float(value.norm()), floor) for name, value in literal.items()
    }
    worst = max(apart, key=apart.__getitem__)
    return apart[worst], worst


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
    """FLOP/s of a large product: what the machine can do at most."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    times = [timed(lambda: a @ b, device)[0] for _ in range(7)]
    return 2 * side**3 / min(times)


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak beyond what is there before, by CUDA's own count or the CPU profiler's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
