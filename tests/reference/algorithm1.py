"""The training step written literally, as the released loop is structured: an oracle for values, a baseline for speed.

One network call for each prediction, with the guidance pair as a batch of two; two copies of the transformer, one for
the student and one that psi and phi share by switching its adapter off and on; the schedule looked up again at every
use; PEFT's own layers. What the released loop gets wrong (see docs/distillation.md) is not repeated: every sample has
its own time, and the loss is built outside `no_grad`. Each distinct prediction is made once.

Shares no code with `tsdsr.losses`, `tsdsr.models.velocity` or `tsdsr.training`.

Source: TSD-SR, arXiv 2411.18263, Algorithm 1 and Eqs. (3)-(9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass
class Settings:
    """What Algorithm 1 leaves open; guidance and the losses' weights are of the whole step."""

    lam: float
    dasm_steps: int
    dasm_step_size: float
    dasm_weight: float
    teacher_scale: float = 1.0
    fake_scale: float = 1.0
    loss_weights: dict[str, float] = field(default_factory=dict)  # lpips, latent_mse, tsd
    shift: float = 3.0
    residual: str = "velocity"


@dataclass
class Draws:
    """The random numbers of one step, so that two implementations can be given the same."""

    noise: Tensor  # [B,C,h,w], of TSD
    t: Tensor  # [B]
    fake_noise: Tensor  # [B,C,h,w], of the fake score's loss
    fake_t: Tensor  # [B]
    fake_dropped: Tensor  # [B], captions that are left out


class LiteralStep:
    """Both turns over one batch; gradients are left on the parameters.

    Args:
        generator: a transformer with the adapter `student`.
        scorer: another copy with the adapter `fake_score`.
        vae: with the adapter `student` on its encoder.
        default, null: (embeds [L,D], pooled [P]).
        perceptual: (x_hat, hq) -> (B,).
    """

    def __init__(
        self,
        generator: Any,
        scorer: Any,
        vae: Any,
        default: tuple[Tensor, Tensor],
        null: tuple[Tensor, Tensor],
        perceptual: Callable[[Tensor, Tensor], Tensor],
        settings: Settings,
    ) -> None:
        self.generator, self.scorer, self.vae = generator, scorer, vae
        self.default, self.null, self.perceptual, self.settings = default, null, perceptual, settings
        generator.set_adapter("student")
        vae.set_adapter("student")
        scorer.set_adapter("fake_score")

    def student_turn(self, lq: Tensor, hq: Tensor, z: Tensor, caption: tuple[Tensor, Tensor], draws: Draws) -> dict:
        """Losses by name (batch means) and `z_hat`."""
        weights = self.settings.loss_weights
        x_lq = functional.interpolate(lq, scale_factor=hq.shape[2] // lq.shape[2], mode="bicubic").clamp(-1, 1)
        z_lq = self.vae.encode(x_lq).latent_dist.mode() * self.vae.config.scaling_factor
        rows = z.shape[0]
        velocity = self.generator(
            hidden_states=z_lq,
            timestep=torch.full((rows,), 1000.0, device=z.device),
            encoder_hidden_states=self.default[0].expand(rows, -1, -1),
            pooled_projections=self.default[1].expand(rows, -1),
            return_dict=False,
        )[0]
        z_hat = z_lq - velocity
        losses = {"tsd": self._tsd(z_hat, z, caption, draws)}
        if weights.get("lpips"):
            x_hat = self.vae.decode(z_hat / self.vae.config.scaling_factor, return_dict=False)[0]
            losses["lpips"] = self.perceptual(x_hat.clamp(-1, 1), hq).mean()
        if weights.get("latent_mse"):
            losses["latent_mse"] = functional.mse_loss(z_hat, z)
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        return {name: loss.detach() for name, loss in losses.items()} | {"z_hat": z_hat.detach()}

    def fake_score_turn(self, z_hat: Tensor, caption: tuple[Tensor, Tensor], draws: Draws) -> Tensor:
        """Eq. (9)."""
        self.scorer.enable_adapters()
        sigma = self._sigma(draws.fake_t)
        z_t = (1 - sigma) * z_hat + sigma * draws.fake_noise
        embeds = torch.where(draws.fake_dropped[:, None, None], self.null[0], caption[0])
        pooled = torch.where(draws.fake_dropped[:, None], self.null[1], caption[1])
        velocity = self.scorer(
            hidden_states=z_t,
            timestep=1000 * sigma.flatten(),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        loss = functional.mse_loss(velocity, draws.fake_noise - z_hat)
        loss.backward()
        return loss.detach()

    def _tsd(self, z_hat: Tensor, z: Tensor, caption: tuple[Tensor, Tensor], draws: Draws) -> Tensor:
        with torch.no_grad():
            direction = literal_direction(
                z_hat,
                z,
                draws.noise,
                draws.t,
                lambda z_t, t: self._teacher(z_t, t, caption),
                lambda z_t, t: self._fake(z_t, t, caption),
                self.settings,
            )
        return 0.5 * functional.mse_loss(z_hat, (z_hat - direction).detach())

    def _teacher(self, z_t: Tensor, t: Tensor, caption: tuple[Tensor, Tensor]) -> Tensor:
        self.scorer.disable_adapters()
        return self._guided(z_t, t, caption, self.settings.teacher_scale)

    def _fake(self, z_t: Tensor, t: Tensor, caption: tuple[Tensor, Tensor]) -> Tensor:
        self.scorer.enable_adapters()
        return self._guided(z_t, t, caption, self.settings.fake_scale)

    def _guided(self, z_t: Tensor, t: Tensor, caption: tuple[Tensor, Tensor], scale: float) -> Tensor:
        timestep = 1000 * self._sigma(t).flatten()
        v_null, v_cond = self.scorer(
            hidden_states=torch.cat([z_t, z_t]),
            timestep=torch.cat([timestep, timestep]),
            encoder_hidden_states=torch.cat([self.null[0].expand_as(caption[0]), caption[0]]),
            pooled_projections=torch.cat([self.null[1].expand_as(caption[1]), caption[1]]),
            return_dict=False,
        )[0].chunk(2)
        return v_null + scale * (v_cond - v_null)

    def _sigma(self, t: Tensor) -> Tensor:
        return sigma_of(t, self.settings.shift)


def sigma_of(t: Tensor, shift: float) -> Tensor:
    """[B] -> [B,1,1,1]."""
    u = t / 1000
    return (shift * u / (1 + (shift - 1) * u))[:, None, None, None]


def literal_direction(
    z_hat: Tensor,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    psi: Callable[[Tensor, Tensor], Tensor],
    phi: Callable[[Tensor, Tensor], Tensor],
    settings: Settings,
    offset: Tensor | None = None,
) -> Tensor:
    """Algorithm 1, lines 9-23; psi and phi are (z_t, t) -> velocity, guidance inside.

    Args:
        offset: [B], added to the time that the N + 1 steps go through.
    """

    def sigma(t: Tensor) -> Tensor:
        return sigma_of(t, settings.shift)

    def prediction(z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        return velocity if settings.residual == "velocity" else z_t + (1 - sigma(t)) * velocity

    # N + 1 steps end at 1 at the lowest, as in the released script.
    reach = (settings.dasm_steps + 1) * settings.dasm_step_size + (0.0 if offset is None else offset)
    last = (t - reach).clamp(min=1)
    noisy_hat = (1 - sigma(t)) * z_hat + sigma(t) * noise
    noisy = (1 - sigma(t)) * z + sigma(t) * noise
    direction, pre = torch.zeros_like(z), t
    for i in range(settings.dasm_steps + 1):
        psi_hat, psi_z, phi_hat = psi(noisy_hat, pre), psi(noisy, pre), phi(noisy_hat, pre)
        vsd = prediction(noisy, psi_z, pre) - prediction(noisy_hat, phi_hat, pre)
        tsm = prediction(noisy_hat, psi_hat, pre) - prediction(noisy, psi_z, pre)
        weight = 1.0 if i == 0 else settings.dasm_weight
        direction = direction + weight * sigma(pre) ** 2 * (tsm + settings.lam * vsd)
        cur = t + (last - t) * (i + 1) / (settings.dasm_steps + 1)
        noisy_hat = noisy_hat + (sigma(cur) - sigma(pre)) * phi_hat
        noisy = noisy + (sigma(cur) - sigma(pre)) * psi_z
        pre = cur
    return direction
