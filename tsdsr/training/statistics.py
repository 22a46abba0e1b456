"""The records of a run: means over the steps between two rows of the curve, and statistics by noise level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tsdsr.training.world import World

BINS = 10


class Window:
    """Values since the last row of the curve; they stay on the device until a row is made."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def note(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def means(self, world: World) -> dict[str, float]:
        """The means of the finite values over all workers; empties the window. Every worker must call it.

        Sorted by name, so that every worker sums in the same order.
        """
        names = sorted(self._values)
        rows = [torch.stack(self._values[name]).float() for name in names]
        sums = torch.stack([torch.stack([row[row.isfinite()].sum(), row.isfinite().sum()]) for row in rows])
        self._values.clear()
        means = {name: (total, count) for name, (total, count) in zip(names, world.sum(sums).tolist(), strict=True)}
        return {name: total / count for name, (total, count) in means.items() if count}

    def state(self, world: World) -> dict[str, list[list[float]]]:
        """By name and worker, so that curves continue exactly after a resume."""
        return {name: world.gather(torch.stack(self._values[name]).float()).tolist() for name in sorted(self._values)}

    def restore(self, state: Mapping[str, list[list[float]]], world: World, device: torch.device) -> None:
        """Restore this worker's values; if the number of workers has changed, the mean over the former ones."""
        self._values = {}
        for name, rows in state.items():
            values = torch.tensor(rows, device=device)
            self._values[name] = list(values[world.rank] if len(rows) == world.size else values.mean(0))


FAINT = 0.02
SHARE = "grad_share/"


def faint_terms(history: Sequence[Mapping[str, float]], phases: Sequence[str]) -> dict[tuple[str, str], float]:
    """(phase, term) -> the term's mean share of the gradient at z_hat, if it is below `FAINT`: it has hardly any
    effect.

    Args:
        history: rows of the curve. phases: in order; a row's `phase` is a place in them.
    """
    found: dict[tuple[str, str], float] = {}
    for number, phase in enumerate(phases):
        rows = [row for row in history if row["phase"] == number]
        for column in sorted({name for row in rows for name in row if name.startswith(SHARE)}):
            shares = [row[column] for row in rows if column in row]
            if sum(shares) < FAINT * len(shares):
                found[phase, column.removeprefix(SHARE)] = sum(shares) / len(shares)
    return found


class ByNoise:
    """Sums of a method's statistics in bins of sigma, one table per phase of the recipe, independent of the number of
    workers. For TSD these are the values of the paper's Figs. 3 and 5.

    Args:
        phases: the recipe's phases, in order.
        names: the statistics.
        device: of the samples and the sums, so that adding does not wait.
    """

    def __init__(self, phases: Iterable[str], names: Iterable[str], device: torch.device) -> None:
        self.phases, self.names = list(phases), list(names)
        # The last column is the number of samples.
        self.sums = torch.zeros(len(self.phases), BINS, len(self.names) + 1, dtype=torch.float64, device=device)

    def note(self, phase: str, sigma: Tensor, statistics: Mapping[str, Tensor]) -> None:
        """Add B samples: `sigma` and each statistic are (B,)."""
        bins = (sigma * BINS).long().clamp(max=BINS - 1)
        rows = torch.stack([*(statistics[name] for name in self.names), torch.ones_like(sigma)], dim=1)
        self.sums[self.phases.index(phase)].index_add_(0, bins, rows.double())

    def totals(self, world: World) -> Tensor:
        """The sums over all workers; every worker must call it."""
        return world.sum(self.sums.clone())

    def restore(self, totals: Tensor, rank: int) -> None:
        """Continue from `totals`, which one worker adds for all."""
        self.sums.copy_(totals if rank == 0 else torch.zeros_like(totals))

    def rows(self, world: World) -> list[dict[str, float | str]]:
        """Means of each phase and bin with samples; every worker must call it."""
        totals = self.totals(world).tolist()
        return [
            {
                "phase": phase,
                "sigma_low": index / BINS,
                "sigma_high": (index + 1) / BINS,
                "samples": int(sums[-1]),
                **{name: total / sums[-1] for name, total in zip(self.names, sums[:-1], strict=True)},
            }
            for phase, bins in zip(self.phases, totals, strict=True)
            for index, sums in enumerate(bins)
            if sums[-1]
        ]
