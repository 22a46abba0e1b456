"""How far our side is from the literal one, and what memory code really takes: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def compare(ours: dict[str, Tensor], literal: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference, and where; a gradient of mere rounding is held against the others."""
    assert ours.keys() == literal.keys(), sorted(ours.keys() ^ literal.keys())[:5]
    floor = 1e-6 * max(float(value.norm()) for name, value in literal.items() if not name.startswith("loss."))
    apart = {
        name: float((ours[name] - value).norm()) / max(float(value.norm()), floor) for name, value in literal.items()
    }
    worst = max(apart, key=apart.__getitem__)
    return apart[worst], worst


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
