"""The student's loss terms by name, as `distill.phases.<phase>.losses` weighs them. A new term is one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from tsdsr.losses.reconstruction import latent_mse
from tsdsr.losses.tsd import TSDLoss


class StudentOutput:
    """What the terms are made of; images and teacher calls are only computed if a term asks for them.

    Args:
        z_hat, z: (B, C, h, w), the student's latent and the photograph's.
        hq: (B, 3, H, W) in [-1, 1].
        decode: z_hat -> x_hat.
        perceptual: (x_hat, hq) -> (B,).
        tsd: () -> TSDLoss at the batch's times and noise.
    """

    def __init__(
        self,
        z_hat: Tensor,
        z: Tensor,
        hq: Tensor,
        decode: Callable[[Tensor], Tensor],
        perceptual: Callable[[Tensor, Tensor], Tensor],
        tsd: Callable[[], TSDLoss],
    ) -> None:
        self.z_hat, self.z, self.hq = z_hat, z, hq
        self._decode, self.perceptual, self._tsd = decode, perceptual, tsd

    @cached_property
    def x_hat(self) -> Tensor:
        return self._decode(self.z_hat)

    @cached_property
    def tsd(self) -> TSDLoss:
        return self._tsd()


LOSSES: dict[str, Callable[[StudentOutput], Tensor]] = {
    "lpips": lambda output: output.perceptual(output.x_hat, output.hq),  # Eq. (7)
    "latent_mse": lambda output: latent_mse(output.z_hat, output.z),  # T4's early phase
    "tsd": lambda output: output.tsd.per_sample,  # Eqs. (5)-(6)
}
