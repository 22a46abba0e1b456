"""The cost of a restorer: multiply-adds and parameters of one image, and the time of the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from pipeline.stages.restorers import Restorer


@dataclass
class Cost:
    """Measured while a restorer is called through `restore`. For the first image operations are counted, not time."""

    restorer: Restorer
    operations: int = 0
    parameters: int = 0
    seconds: list[float] = field(default_factory=list)
    size: str = ""

    def restore(self, lq: np.ndarray) -> np.ndarray:
        """The restored picture."""
        if not self.size:
            with self._counting():
                restored = self.restorer(lq)
            self.size = f"{restored.shape[1]}x{restored.shape[0]}"
            return restored
        start = time.perf_counter()
        restored = self.restorer(lq)
        self.seconds.append(time.perf_counter() - start)
        return restored

    @contextmanager
    def _counting(self) -> Iterator[None]:
        used: dict[int, int] = {}

        def note(module: nn.Module, *_: Any) -> None:
            used.update({id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)})

        hook = register_module_forward_hook(note)
        try:
            with FlopCounterMode(display=False) as counter:
                yield
        finally:
            hook.remove()
        self.operations, self.parameters = counter.get_total_flops(), sum(used.values())

    def figures(self) -> dict[str, float | str]:
        """`macs_g`, `params_m` (those that the forward pass used; neither for a restorer without a torch network),
        `time_s` (the median, wall clock, of all pictures but the first) and the restored `picture`'s size."""
        counts = {"macs_g": self.operations / 2e9, "params_m": self.parameters / 1e6}
        found: dict[str, float | str] = {name: float(f"{value:.4g}") for name, value in counts.items() if value}
        if self.seconds:
            found["time_s"] = round(statistics.median(self.seconds), 4)
        return {**found, "picture": self.size} if self.size else {}
