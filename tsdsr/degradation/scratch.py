"""Working memory that is kept between an operator's calls.

A freed array of a few MB is returned to the system, and the next call has to map every page again, which at 512 px took
longer than the arithmetic. Scratch arrays are used only inside of one operator; each thread has its own.
"""

from __future__ import annotations

import math
import threading

import numpy as np

KEPT_BYTES = 16 << 20  # largest array that is kept


class _Kept(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}


_kept = _Kept()


def scratch(name: str, *shape: int) -> np.ndarray:
    """An uninitialised float32 array of `shape`; the next call with `name` on this thread returns the same memory."""
    size = math.prod(shape)
    if 4 * size > KEPT_BYTES:
        return np.empty(shape, np.float32)
    buffer = _kept.buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = _kept.buffers[name] = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)
