"""Flow matching: Eq. (9), and the loss that teachers are trained and fine-tuned by."""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr.flow import velocity


def flow_matching_loss(v: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """Per-sample || v(z_t) - (noise - z) ||^2, averaged over elements; in float32 or wider.

    Args:
        v: (B, C, h, w), the network's velocity at z_t = add_noise(z, noise, sigma); receives the gradient.
        z: (B, C, h, w), a photograph's latent, or in Eq. (9) the student's; treated as data.
        noise: (B, C, h, w).

    Returns:
        (B,).

    Source: TSD-SR, arXiv 2411.18263, Eq. (9); Esser et al., arXiv 2403.03206. Uniformly weighted: TSD-SR's released
    code weighs Eq. (9) by a random number that is unrelated to sigma; that is not repeated.
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    target = velocity(z.detach().to(wide), noise.to(wide))
    return (v.to(wide) - target).pow(2).flatten(1).mean(1)
