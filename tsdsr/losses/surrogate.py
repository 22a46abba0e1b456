"""A loss whose gradient is a given direction, the basis of every score-distillation loss."""

from __future__ import annotations

from torch import Tensor


def score_surrogate(z_hat: Tensor, direction: Tensor) -> Tensor:
    """(B,): 0.5 mean(direction^2) in value; the gradient of its batch mean at z_hat is direction / numel.

    It is 0.5 mean((z_hat - stopgrad(z_hat - direction))^2), written so that no digit of the direction is lost to the
    subtraction.

    Args:
        z_hat: (B, C, h, w), receives the gradient. direction: (B, C, h, w), float32 or wider; treated as data.

    Source: the form of TSD-SR's released code, and of DreamFusion's SDS, arXiv 2209.14988.
    """
    direction = direction.detach()
    z_hat = z_hat.to(direction.dtype)
    return (0.5 * direction**2 + direction * (z_hat - z_hat.detach())).flatten(1).mean(1)
