"""Embeddings of a prompt, the transformer's conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """Embeddings of one prompt: L tokens of width D, and the pooled vector of width P."""

    embeds: Tensor  # [L,D]
    pooled: Tensor  # [P]
