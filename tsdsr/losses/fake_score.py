"""The fake score's own loss, Eq. (9): plain flow matching on the student's latents."""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr.flow import velocity


def fake_score_loss(v_fake: Tensor, z_hat: Tensor, noise: Tensor) -> Tensor:
    """Per-sample || phi(z_t) - (noise - z_hat) ||^2, averaged over elements; in float32 or wider.

    Args:
        v_fake: (B, C, h, w), phi's velocity at z_t = add_noise(z_hat, noise, sigma); receives the gradient.
        z_hat: (B, C, h, w), the student's latent; treated as data.
        noise: (B, C, h, w).

    Returns:
        (B,).

    Source: TSD-SR, arXiv 2411.18263, Eq. (9), uniformly weighted. The released code weighs by a random number that is
    unrelated to sigma; that is not repeated.
    """
    wide = torch.promote_types(v_fake.dtype, torch.float32)
    target = velocity(z_hat.detach().to(wide), noise.to(wide))
    return (v_fake.to(wide) - target).pow(2).flatten(1).mean(1)
