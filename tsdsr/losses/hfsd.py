"""High-frequency enhanced score distillation (HFSD): the student's latent against the multi-step teacher's, seen by the
frozen teacher at low noise.

    g = stopgrad(e(z^_t) - e(z_t)),  z^_t and z_t with the same noise,  loss = mean(g z^)

with z^ the student's latent, z the multi-step teacher's output and e the teacher's noise estimate. In flow matching
e^ - e = (1 - sigma) [(z^ - z) + (v^ - v)]: 0 for a teacher that denoises back to its input, and a pull to z,
(1 - sigma) / sigma (z^ - z), for one that denoises both to one point. `residual="velocity"` subtracts velocities and so
leaves the term z^ - z out: another loss, kept for comparison.

Legend: B batch, C h w latent.

Source: TAD-SR, arXiv 2408.07476, Sec. 3.2; noise form, shared noise and constant weight as in its released code. The
noise is Gaussian: the released code draws it uniformly from [0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tsdsr.flow import FlowSchedule, add_noise, noise_from_velocity
from tsdsr.losses.surrogate import score_surrogate
from tsdsr.losses.tsd import Velocity


@dataclass(frozen=True)
class HFSDLoss:
    """Attributes:
    per_sample: (B,), differentiable in z_hat alone: the gradient of its mean is direction / numel, that of mean(g z^).
    direction: (B, C, h, w), g; no gradient.
    sigma: (B,).
    """

    per_sample: Tensor
    direction: Tensor
    sigma: Tensor


def hfsd_loss(
    z_hat: Tensor,
    z_tea: Tensor,
    *,
    noise: Tensor,
    t: Tensor,
    teacher: Velocity,
    schedule: FlowSchedule,
    residual: Literal["noise", "velocity"] = "noise",
) -> HFSDLoss:
    """HFSD at each sample's own time; in float32 or wider.

    Args:
        z_hat: (B, C, h, w), receives the gradient. z_tea: (B, C, h, w), the multi-step teacher's output.
        noise: (B, C, h, w), standard normal.
        t: (B,), linear time in (0, 1000].
        teacher: called once, with the rows of z_hat above those of z_tea.
    """
    with torch.no_grad():
        wide = torch.promote_types(z_hat.dtype, torch.float32)
        sigma = schedule.sigma(t.to(wide))
        both = torch.cat([sigma, sigma])
        clean = torch.cat([z_hat.detach(), z_tea]).to(wide)
        z_t = add_noise(clean, torch.cat([noise, noise]).to(wide), both)
        v = teacher(z_t, schedule.timestep(both)).to(wide)
        estimate = noise_from_velocity(z_t, v, both) if residual == "noise" else v
        on_z_hat, on_z_tea = estimate.chunk(2)
        direction = on_z_hat - on_z_tea
    return HFSDLoss(score_surrogate(z_hat, direction), direction, sigma)
