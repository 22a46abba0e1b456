"""Hinge losses of a discriminator and its generator, from logits.

Source: Lim and Ye, arXiv 1705.02894; Miyato et al., arXiv 1802.05957, Eqs. (16)-(17).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """(B,): max(0, 1 - D(real)) + max(0, 1 + D(fake)), averaged over a sample's logits; both (B, ...)."""
    return functional.relu(1 - real).flatten(1).mean(1) + functional.relu(1 + fake).flatten(1).mean(1)


def generator_hinge(fake: Tensor) -> Tensor:
    """(B,): -D(fake), averaged over a sample's logits (B, ...)."""
    return -fake.flatten(1).mean(1)
