"""What a run records of itself: means over the steps between two rows of the curve, and statistics by noise level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tsdsr.training.world import World

BINS = 10


class Window:
    """Values noted since the last row of the curve; they stay on the device until a row is made."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def note(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def means(self, world: World) -> dict[str, float]:
        """Over all workers, of what is finite, if anything is; then the window is empty. Every worker must ask.

        Sorted by name, so that every worker sums in the same order.
        """
        names = sorted(self._values)
        rows = [torch.stack(self._values[name]).float() for name in names]
        sums = torch.stack([torch.stack([row[row.isfinite()].sum(), row.isfinite().sum()]) for row in rows])
        self._values.clear()
        means = {name: (total, count) for name, (total, count) in zip(names, world.sum(sums).tolist(), strict=True)}
        return {name: total / count for name, (total, count) in means.items() if count}

    def state(self, world: World) -> dict[str, list[list[float]]]:
        """By name and worker, so that curves go on exactly after a resume."""
        return {name: world.gather(torch.stack(self._values[name]).float()).tolist() for name in sorted(self._values)}

    def restore(self, state: Mapping[str, list[list[float]]], world: World, device: torch.device) -> None:
        """Take up this worker's values; where their number has changed, the mean over those there were."""
        self._values = {}
        for name, rows in state.items():
            values = torch.tensor(rows, device=device)
            self._values[name] = list(values[world.rank] if len(rows) == world.size else values.mean(0))


FAINT = 0.02
SHARE = "grad_share/"


def faint_terms(history: Sequence[Mapping[str, float]], phases: Sequence[str]) -> dict[tuple[str, str], float]:
    """(phase, term) -> the term's mean share of the gradient at z_hat, where it is below `FAINT`: it hardly teaches.

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
    """Sums of a method's statistics in bins of sigma, one table a phase of the recipe; the same whatever the number of
    workers. TSD's are the numbers behind the paper's Figs. 3 and 5.

    Args:
        phases: the recipe's phases, in order.
        names: the statistics.
        device: where the samples come from; sums stay there, so that noting them waits for nothing.
    """

    def __init__(self, phases: Iterable[str], names: Iterable[str], device: torch.device) -> None:
        self.phases, self.names = list(phases), list(names)
        # The last column counts samples.
        self.sums = torch.zeros(len(self.phases), BINS, len(self.names) + 1, dtype=torch.float64, device=device)

    def note(self, phase: str, sigma: Tensor, statistics: Mapping[str, Tensor]) -> None:
        """Add B samples: `sigma` and each statistic are (B,)."""
        bins = (sigma * BINS).long().clamp(max=BINS - 1)
        rows = torch.stack([*(statistics[name] for name in self.names), torch.ones_like(sigma)], dim=1)
        self.sums[self.phases.index(phase)].index_add_(0, bins, rows.double())

    def totals(self, world: World) -> Tensor:
        """The sums over all workers; every worker must ask."""
        return world.sum(self.sums.clone())

    def restore(self, totals: Tensor, rank: int) -> None:
        """Go on from `totals`, which one worker takes over for all."""
        self.sums.copy_(totals if rank == 0 else torch.zeros_like(totals))

    def rows(self, world: World) -> list[dict[str, float | str]]:
        """Means of each phase and bin that samples fell into; every worker must ask."""
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
