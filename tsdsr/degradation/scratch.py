"""Working memory that an operator keeps between calls.

Arrays of a few MB go back to the system when freed, and the next call pays for every page anew: at 512 px that took
longer than the arithmetic. Scratch arrays never leave the operator that asked for them; each thread has its own.
"""

from __future__ import annotations

import math
import threading

import numpy as np

KEPT_BYTES = 16 << 20  # a larger array is not kept


class _Kept(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}


_kept = _Kept()


def scratch(name: str, *shape: int) -> np.ndarray:
    """An uninitialised float32 array of `shape`; the next call with `name` on this thread hands out the same memory."""
    size = math.prod(shape)
    if 4 * size > KEPT_BYTES:
        return np.empty(shape, np.float32)
    buffer = _kept.buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = _kept.buffers[name] = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)
