"""Poisson counts for an 8-bit image by inverting the distribution functions of its 256 possible means.

The means are level * peak / 255, so the distribution functions fit in a table. A 32-bit uniform number picks the
smallest count whose distribution function reaches it: exact to 2^-31. Its leading bits index a guide table with the
smallest possible count; most cells then need one comparison, the few in the tails a loop.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.special import pdtr

_GUIDE_BITS = 12
_REST_BITS = 32 - _GUIDE_BITS
_TAIL = np.uint16(1 << 15)  # flag of a guide cell with more than two counts
_TAIL_SIGMAS = 8  # counts above mean + 8 sigma + 20 have a probability below 2^-32


def sample_poisson(levels: np.ndarray, peak: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one count per pixel.

    Args:
        levels: uint8, any shape.
        peak: the mean count at level 255; a power of two up to 256.
        rng: gives one 32-bit number per pixel.

    Returns:
        uint16 counts in the shape of `levels`; the mean of a pixel is level * peak / 255.
    """
    guide, edges = _tables(peak)
    uniform = rng.integers(1 << 32, size=levels.size, dtype=np.uint32)
    uniform |= 1  # never 0, so that a count of probability 0 is never drawn
    level = levels.reshape(-1).astype(np.uint32)
    cells = guide.reshape(-1)[(level << _GUIDE_BITS) | (uniform >> _REST_BITS)]
    counts = cells & ~_TAIL
    row = level * edges.shape[1]
    flat_edges = edges.reshape(-1)
    counts += uniform > flat_edges[row + counts]
    pending = np.flatnonzero(cells & _TAIL)
    while len(pending):
        pending = pending[uniform[pending] > flat_edges[row[pending] + counts[pending]]]
        counts[pending] += 1
    return counts.reshape(levels.shape)


@cache
def _tables(peak: int) -> tuple[np.ndarray, np.ndarray]:
    """The guide (256, 2^_GUIDE_BITS) uint16, and the edges (256, counts) uint32: P(count <= n) 2^32, rounded.

    Count n is drawn for numbers above edge n - 1, up to edge n. The last edge is the largest number.
    """
    largest = int(peak + _TAIL_SIGMAS * np.sqrt(peak) + 20)
    means = np.arange(256)[:, None] * (peak / 255)
    below = np.rint(pdtr(np.arange(largest + 1)[None, :], means) * 2.0**32)
    edges = np.minimum(below, 2.0**32 - 1).astype(np.uint32)
    first = np.arange(1 << _GUIDE_BITS, dtype=np.uint32) << _REST_BITS
    last = first + np.uint32((1 << _REST_BITS) - 1)
    low = np.stack([np.searchsorted(row, np.maximum(first, 1)) for row in edges])
    high = np.stack([np.searchsorted(row, last) for row in edges])
    return np.where(high - low > 1, low | int(_TAIL), low).astype(np.uint16), edges
