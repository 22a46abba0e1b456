"""Training a restoring teacher: flow matching on photographs' latents, conditioned on the low-quality latent.

Legend: B batch, H W pixels, C h w latent.

Source: Esser et al., arXiv 2403.03206 (rectified flow, uniformly sampled time); for how z_L enters see
`tsdsr.models.restoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from tsdsr import seeding
from tsdsr.data.dataset import Batch
from tsdsr.flow import NUM_TRAIN_TIMESTEPS, FlowSchedule, add_noise, gaussian_like, uniform
from tsdsr.losses.flow_matching import flow_matching_loss
from tsdsr.methods.base import Group, Method, Moment, Turn, TurnOutput, random_place
from tsdsr.models import adapters, restoring
from tsdsr.models.codec import LatentCodec
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.student import upsample


class RestorerTurn(Turn):
    """E || v(z_t, t, z_L) - (noise - z) ||^2, t uniform; every draw belongs to (seed, position).

    Args:
        codec: of the frozen autoencoder. scale: HQ side / LQ side.
    """

    name = "restorer"

    def __init__(
        self,
        restorer: RestoringTeacher,
        codec: LatentCodec,
        schedule: FlowSchedule,
        groups: Sequence[Group],
        *,
        scale: int,
        seed: int,
    ) -> None:
        self.network, self.transformer, self.groups = restorer, restorer.transformer, groups
        self.codec, self.schedule, self.scale, self.seed = codec, schedule, scale, seed

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        rows = len(batch.z)
        with torch.no_grad():
            z_lq = self.codec.encode(upsample(batch.lq, self.scale))
        generators = [seeding.generator(self.seed, "restorer", position) for position in batch.positions]
        noise = gaussian_like(batch.z, generators)
        # Spread over the batch, one draw a stratum: uniform, with less variance than independent draws.
        u = (torch.arange(rows, device=noise.device) + uniform(generators, (0.0, 1.0), noise.device)) / rows
        sigma = self.schedule.sigma(NUM_TRAIN_TIMESTEPS * (1 - u))
        # Active throughout, since gradient checkpointing repeats the forward during backward.
        with adapters.active(self.transformer, *restoring.names(self.transformer)):
            v = self.network(add_noise(batch.z, noise, sigma), self.schedule.timestep(sigma), z_lq)
            loss = flow_matching_loss(v, batch.z, noise).mean()
            (moment.share * loss).backward()
        return TurnOutput({"restorer": loss.detach()})


class RestorerTraining(Method):
    def __init__(self, turn: RestorerTurn) -> None:
        self.turns, self._transformer, self._seed = (turn,), turn.transformer, turn.seed

    def around(self, step: int, batch: Batch) -> AbstractContextManager[None]:
        """The crops at a random place in the table of positions, since pictures are larger than the crops."""
        return random_place([self._transformer], batch.z.shape[-1], self._seed, step)
