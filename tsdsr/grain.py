"""The noise that a student's decoder makes fine detail of, the same in PyTorch and in ONNX Runtime.

A decoder trained against a discriminator needs a source of the detail that its latents lack. Its only one is its own
grid, and it makes a pattern of that pitch; noise in its input is another (StyleGAN, arXiv 1812.04948, Sec. 3.2). The
noise follows from the place in the picture, so tiles have no seams, and the same picture gives the same result.
"""

from __future__ import annotations

import numpy as np

_SEED = 0


def grain(channels: int, height: int, width: int) -> np.ndarray:
    """(C, h, w) standard normal values in float32, for the latents of one picture; equal for equal shapes."""
    return np.random.default_rng(_SEED).standard_normal((channels, height, width), np.float32)
