"""Counts the memory of tensors at every operation, on any device - also on the meta device, where nothing is allocated,
so that a network of any size can be counted on any machine.

A storage counts from the operation that creates it until nothing refers to it. Workspaces of kernels, and the
allocator's rounding and fragmentation, are not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Within the block, counts the live storages on one device.

    Attributes:
        held: live bytes now. peak: their maximum.

    Args:
        device: of the counted tensors.
        tensors: existing ones (weights, a batch), counted from the start.
    """

    def __init__(self, device: torch.device, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.device, self.held, self.peak = device, 0, 0
        self._alive: set[int] = set()
        self._count(tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor.device.type != self.device.type:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                self._alive.add(key)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.held)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.held -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within the block, attention on the meta device counts as with a fused kernel: the output and one number per row,
    not the L x L matrix. torch uses the plain formula on that device; GPUs and CPUs run a fused kernel for every
    attention of SD3, which has no mask and no dropout."""
    module: Any = functional
    plain = module.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        if not query.is_meta or any(options.values()):
            return plain(query, key, value, **options)
        # The fused operator that the meta device supports; it keeps the same tensors as the others.
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]

    module.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        module.scaled_dot_product_attention = plain
