"""The workers of a run: this one's rank, and their communication through torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@cache
def _group_of_cpus() -> distributed.ProcessGroup | None:
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")


@dataclass(frozen=True)
class World:
    """This worker's rank. `World()` is a run without torch.distributed."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def wrap(self, network: nn.Module, trained: Iterable[nn.Parameter]) -> nn.Module:
        """Wrap the network in DDP for these of its parameters; a single worker's network is unchanged.

        Networks of several turns share modules: each turn's DDP ignores the other turns' parameters.
        """
        if self.size == 1:
            return network
        wanted = {id(parameter) for parameter in trained}
        others = [name for name, parameter in network.named_parameters() if id(parameter) not in wanted]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, others)
        return DistributedDataParallel(network, broadcast_buffers=False)

    def sync(self, network: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """A context manager around a micro-batch: gradients are averaged at the last one of a step."""
        return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        if self.size > 1:
            distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all workers, stacked by rank."""
        rows = [values]
        if self.size > 1:
            rows = [torch.empty_like(values) for _ in range(self.size)]
            distributed.all_gather(rows, values)
        return torch.stack(rows)

    def first_says(self, asked: bool) -> bool:
        """The first worker's value for all workers, exchanged on the CPU, so that it does not wait for a GPU."""
        if self.size == 1:
            return asked
        answer = torch.tensor(int(asked))
        distributed.broadcast(answer, 0, group=_group_of_cpus())
        return bool(answer)

    def barrier(self) -> None:
        if self.size > 1:
            distributed.barrier()
