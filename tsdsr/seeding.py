"""Random generators keyed by (seed, purpose, image, step), independent of workers and of the order of calls."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed from `seed` and labels (strings and integers); equal input gives equal output on every machine."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: object) -> torch.Generator:
    """A CPU torch generator for these labels."""
    return torch.Generator().manual_seed(derive(seed, *labels))


def numpy_generator(seed: int, *labels: object) -> np.random.Generator:
    """A numpy generator for these labels."""
    return np.random.Generator(np.random.PCG64(derive(seed, *labels)))
