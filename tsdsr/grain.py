"""The noise that a student's decoder makes fine detail of, the same in PyTorch and in ONNX Runtime.

A decoder trained against a discriminator needs a source of the detail that its latents lack. Its only one is its own
grid, and it makes a pattern of that pitch; noise in its input is another (StyleGAN, arXiv 1812.04948, Sec. 3.2). The
noise follows from the place in the picture, so tiles have no seams, and the same picture gives the same result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SEED = 0


def grain(channels: int, height: int, width: int) -> np.ndarray:
    """(C, h, w) standard normal values in float32, for the latents of one picture; equal for equal shapes."""
    return np.stack(list(grain_by_channel(channels, height, width)))


def grain_by_channel(channels: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The same as C arrays (h, w), one at a time."""
    generator = np.random.default_rng(_SEED)
    for _ in range(channels):
        yield generator.standard_normal((height, width), np.float32)
