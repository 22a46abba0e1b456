"""The student's turn, common to all distillations of a one-step student.

It computes the student's forward, the terms of the phase, each one number per sample, and the backward of their
weighted sum, Eq. (8). A method defines its terms as functions of `StudentOutput`; `RECONSTRUCTION` has those that need
no teacher.

Legend: B batch, H W pixels, C h w latent.

Source: TSD-SR, arXiv 2411.18263, Eqs. (7)-(8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.losses.reconstruction import latent_mse
from tsdsr.losses.texture import texture_loss
from tsdsr.methods.base import Distillation, Group, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.models import adapters
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student, load_weights, upsample


class StudentOutput:
    """The input of the terms; the image is decoded only if a term uses it.

    Attributes:
        z_hat, z: [B,C,h,w], the student's latent, a leaf, and the photograph's.
        hq: [B,3,H,W] in [-1, 1].
        perceptual: (x_hat, hq) -> (B,).
        batch, moment: further inputs of a term.
    """

    def __init__(
        self,
        z_hat: Tensor,
        batch: Batch,
        moment: Moment,
        decode: Callable[[Tensor], Tensor],
        perceptual: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.z_hat, self.z, self.hq = z_hat, batch.z, batch.hq
        self.batch, self.moment, self._decode, self.perceptual = batch, moment, decode, perceptual
        self.sigma: Tensor | None = None
        self.by_noise: dict[str, Tensor] = {}

    @cached_property
    def decoded(self) -> Tensor:
        """x_hat with its graph to z_hat."""
        return self._decode(self.z_hat)

    @cached_property
    def x_hat(self) -> Tensor:
        """[B,3,H,W]; a leaf, so that the decoder has one backward for any number of terms."""
        return self.decoded.detach().requires_grad_(True)

    def note(self, sigma: Tensor, statistics: Mapping[str, Tensor]) -> None:
        """Keep a term's statistics by noise level, each (B,) like `sigma`."""
        self.sigma, self.by_noise = sigma, dict(statistics)


Term = Callable[[StudentOutput], Tensor]
"""-> (B,), before weighting."""

RECONSTRUCTION: dict[str, Term] = {
    "lpips": lambda output: output.perceptual(output.x_hat.clamp(-1, 1), output.hq),  # Eq. (7); clamped as released
    "latent_mse": lambda output: latent_mse(output.z_hat, output.z),  # of the first phase of the paper's later version
    "texture": lambda output: texture_loss(output.x_hat, output.hq),
}


def lora_student(inputs: MethodInputs) -> Student:
    """A student with the teacher's networks and LoRA adapters, with the recipe's ranks and memory options."""
    config, transformer = inputs.config, inputs.transformer
    transformer.requires_grad_(False)
    student = Student(inputs.vae, transformer, use_shift=inputs.use_shift, vae_slice=config.vae_slice)
    lora = config.lora
    student.add_adapters(rank=lora.rank, alpha=lora.alpha, vae_rank=lora.vae_rank, seed=inputs.adapter_seed)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
        inputs.vae.enable_gradient_checkpointing()
    return student


def adapter_parameters(student: Student) -> dict[str, nn.Parameter]:
    """The trained parameters of a LoRA student."""
    return {
        f"{part}.{key}": parameter
        for part, network in (("transformer", student.transformer), ("vae", student.vae))
        for key, parameter in adapters.parameters(network, adapters.STUDENT).items()
    }


class StudentNetwork(nn.Module):
    """x_lq -> z_hat, the trained part of the student."""

    def __init__(self, student: Student, default: Prompt) -> None:
        super().__init__()
        # With channels-last weights, convolutions do not reorder their input: the VAE is a third faster on a CPU.
        vae = student.vae.to(memory_format=torch.channels_last)
        self.encoder, self.quant_conv, self.transformer = vae.encoder, vae.quant_conv, student.transformer
        self._student, self._default = student, default

    def forward(self, x_lq: Tensor) -> Tensor:
        return self._student(x_lq, self._default)


class StudentTurn(Turn):
    """Forward and backward of the student's objective.

    Args:
        student: its decoder is called directly, since it has no trained parameters.
        groups: its parameters.
        terms: those that the phases' `losses` may name.

    Raises:
        UserError: a phase names another.
    """

    name = "student"

    def __init__(
        self, inputs: MethodInputs, student: Student, groups: Sequence[Group], terms: Mapping[str, Term]
    ) -> None:
        unknown = {name for phase in inputs.config.phases.values() for name in phase.losses} - terms.keys()
        if unknown:
            raise UserError(f"distill.phases: unknown losses {sorted(unknown)}; known are {sorted(terms)}")
        self.student, self.groups, self.terms = student, groups, terms
        self.perceptual, self.scale = inputs.perceptual, inputs.scale
        self.network = StudentNetwork(student, inputs.default)

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        weights = {name: weight for name, weight in moment.phase.losses.items() if weight > 0}
        # Active until the end, since gradient checkpointing repeats the forward during backward.
        with (
            adapters.active(self.student.transformer, adapters.STUDENT),
            adapters.active(self.student.vae, adapters.STUDENT),
        ):
            z_hat = self.network(upsample(batch.lq, self.scale))
            leaf = z_hat.detach().requires_grad_(True)
            output = StudentOutput(leaf, batch, moment, self.student.decode, self.perceptual)
            terms = {name: self.terms[name](output) for name in weights}
            # Eq. (8): the weighted sum of the terms, and its gradient.
            gradient, norms = gradient_of({name: weights[name] * term for name, term in terms.items()}, output)
            z_hat.backward(moment.share * gradient)
        means = {name: term.detach().mean() for name, term in terms.items()}
        return TurnOutput(means, {"z_hat": z_hat.detach()}, shares_of(norms), output.sigma, output.by_noise)


def gradient_of(weighted: Mapping[str, Tensor], output: StudentOutput) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient at z_hat of the terms' sum, and the norm of each term's part, without additional cost.

    Each term is differentiated separately with respect to z_hat or x_hat. The sum of the gradients at x_hat is then
    propagated through the decoder once, and its norm is divided among those terms by the norms of their gradients at
    x_hat. Terms must not share a graph other than z_hat and x_hat.

    Args:
        weighted: the terms, (B,) each.

    Returns:
        the gradient of their batch mean, [B,C,h,w]; and by term the norm of a sample's own gradient at z_hat, (B,).
    """
    z_hat = output.z_hat
    direct, pixels = {}, {}
    for name, term in weighted.items():
        leaves = [z_hat, output.x_hat] if "x_hat" in vars(output) else [z_hat]
        found = torch.autograd.grad(term.mean(), leaves, allow_unused=True)
        direct[name] = found[0]
        if len(found) > 1 and found[1] is not None:
            pixels[name] = found[1]
    rows = z_hat.shape[0]
    norms = {name: z_hat.new_zeros(rows) if g is None else _norm(g) * rows for name, g in direct.items()}
    parts = [g for g in direct.values() if g is not None]
    if pixels:
        (through,) = torch.autograd.grad(output.decoded, z_hat, torch.stack(list(pixels.values())).sum(0))
        parts.append(through)
        for name, share in _shares({name: _norm(g) for name, g in pixels.items()}).items():
            norms[name] = norms[name] + share * _norm(through) * rows
    return torch.stack(parts).sum(0), norms


def shares_of(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For the curves: `grad_norm/<term>` and `grad_share/<term>`, its share of the norms' sum; batch means."""
    means = {f"grad_norm/{name}": norm.mean() for name, norm in norms.items()}
    return means | {f"grad_share/{name}": share.mean() for name, share in _shares(norms).items()}


def _shares(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    total = torch.stack(list(norms.values())).sum(0).clamp(min=torch.finfo(torch.float32).tiny)
    return {name: norm / total for name, norm in norms.items()}


def _norm(gradient: Tensor) -> Tensor:
    """(B,)."""
    return gradient.detach().flatten(1).float().norm(dim=1)


class LoRADistillation(Distillation):
    """A distillation whose student is the teacher's networks with LoRA adapters.

    Attributes:
        student: a `tsdsr.models.student.Student`.
        own_decoder: whether the student's decoder is trained, and saved with it.
    """

    own_decoder: ClassVar[bool] = False

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self.student = lora_student(inputs)
        self.pattern_period = self.student.codec.factor * int(inputs.transformer.config.patch_size)

    def student_turn(self, terms: Mapping[str, Term]) -> StudentTurn:
        """The turn with the method's own terms and `RECONSTRUCTION`."""
        parameters, lr = adapter_parameters(self.student), self.inputs.config.optimizer.student_lr
        group = self.inputs.group("student", parameters, lr, averaged=True)
        return StudentTurn(self.inputs, self.student, [group], {**RECONSTRUCTION, **terms})

    def go_on_from(self, student: Path) -> None:
        load_weights(self.student, student)

    def restore(self, x_lq: Tensor) -> Tensor:
        return self.student.decode(self.student(x_lq, self.inputs.default))

    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        record = {**record, "lora": self.inputs.config.lora.model_dump()}
        self.student.save(directory, record, self.inputs.default, own_decoder=self.own_decoder)
