"""What the TSD directions looked like over a run, by noise level: the numbers behind the paper's Figs. 3 and 5.

Sums over samples in bins of sigma, one table a phase of the recipe; the same whatever the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

BINS = 10
STATISTICS = ("tsd_norm", "vsd_norm", "tsm_norm", "cosine_z_hat", "cosine_z")


class Diagnostics:
    """Sums of `STATISTICS` by phase and sigma.

    Args:
        phases: the recipe's phases, in order.
        device: where the samples come from; sums stay there, so that noting them waits for nothing.
    """

    def __init__(self, phases: list[str], device: torch.device) -> None:
        self.phases = phases
        # The last column counts samples.
        self.sums = torch.zeros(len(phases), BINS, len(STATISTICS) + 1, dtype=torch.float64, device=device)

    def note(self, phase: str, sigma: Tensor, statistics: dict[str, Tensor]) -> None:
        """Add B samples: `sigma` and each statistic are (B,)."""
        bins = (sigma * BINS).long().clamp(max=BINS - 1)
        rows = torch.stack([*(statistics[name] for name in STATISTICS), torch.ones_like(sigma)], dim=1)
        self.sums[self.phases.index(phase)].index_add_(0, bins, rows.double())

    def totals(self) -> Tensor:
        """The sums over all workers; every worker must ask."""
        totals = self.sums.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        return totals

    def restore(self, totals: Tensor, rank: int) -> None:
        """Go on from `totals`, which one worker takes over for all."""
        self.sums.copy_(totals if rank == 0 else torch.zeros_like(totals))

    def rows(self) -> list[dict[str, float | str]]:
        """Means of each phase and bin that samples fell into; every worker must ask."""
        totals = self.totals().tolist()
        return [
            {
                "phase": phase,
                "sigma_low": index / BINS,
                "sigma_high": (index + 1) / BINS,
                "samples": int(sums[-1]),
                **{name: total / sums[-1] for name, total in zip(STATISTICS, sums[:-1], strict=True)},
            }
            for phase, bins in zip(self.phases, totals, strict=True)
            for index, sums in enumerate(bins)
            if sums[-1]
        ]
