"""Score distillation: a LoRA student, and the fake score phi, a LoRA adapter of the teacher that is trained on the
student's latents.

Such a method has two turns, the student's and the fake score's on stopgrad(z_hat), Eq. (9), and its own term with the
difference of the two scores. Teacher, phi and student are one frozen transformer with named adapters.

Source: TSD-SR, arXiv 2411.18263, Eq. (9) and Algorithm 1, line 27.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.data.dataset import Batch
from tsdsr.flow import add_noise, uniform
from tsdsr.losses import flow_matching_loss
from tsdsr.methods.base import Group, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.student import LoRADistillation, Term
from tsdsr.models import adapters, fp8
from tsdsr.models.velocity import GuidedVelocity, predict_velocity


def teacher_names(transformer: nn.Module) -> tuple[str, ...]:
    """The adapters of psi: those of the fine-tuned teacher, if there are any."""
    return (adapters.TEACHER,) if adapters.has_adapter(transformer, adapters.TEACHER) else ()


def fake_score_names(transformer: nn.Module) -> tuple[str, ...]:
    """The adapters of phi: the teacher's and its own, so that it is initially equal to the teacher."""
    return (*teacher_names(transformer), adapters.FAKE_SCORE)


def teacher_velocity(inputs: MethodInputs, embeds: Tensor, pooled: Tensor) -> GuidedVelocity:
    """psi with guidance for these captions."""
    scale = inputs.config.guidance_scale.teacher
    return _guided(inputs, teacher_names(inputs.transformer), embeds, pooled, scale)


def fake_velocity(inputs: MethodInputs, embeds: Tensor, pooled: Tensor) -> GuidedVelocity:
    """phi with guidance for these captions."""
    scale = inputs.config.guidance_scale.fake_score
    return _guided(inputs, fake_score_names(inputs.transformer), embeds, pooled, scale)


def _guided(inputs: MethodInputs, names: Sequence[str], embeds: Tensor, pooled: Tensor, scale: float) -> GuidedVelocity:
    config = inputs.config
    return GuidedVelocity(
        inputs.transformer, names, embeds, pooled, inputs.null, scale, config.low_memory, config.fp8_scores
    )


class FakeScoreNetwork(nn.Module):
    """(z_t, timestep, embeds, pooled) -> phi's velocity without guidance."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, z_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        with adapters.active(self.transformer, *fake_score_names(self.transformer)):
            return predict_velocity(self.transformer, z_t, timestep, embeds, pooled)


class FakeScoreTurn(Turn):
    """Flow matching on stopgrad(z_hat), Eq. (9).

    A share `caption_dropout` of the samples has the empty prompt, which trains the null branch of guidance.
    """

    name = "fake_score"

    def __init__(self, inputs: MethodInputs, groups: Sequence[Group]) -> None:
        self.inputs, self.groups = inputs, groups
        self.network = FakeScoreNetwork(inputs.transformer)
        self.updates = inputs.config.fake_score.updates_per_step

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        config, inputs, z_hat = self.inputs.config.fake_score, self.inputs, moment.carried["z_hat"]
        generators = [
            seeding.generator(inputs.seed, "fake_score", position, moment.update) for position in batch.positions
        ]
        t = uniform(generators, config.t_range, z_hat.device)
        dropped = uniform(generators, (0.0, 1.0), z_hat.device) < config.caption_dropout
        noise = inputs.noise_like(z_hat, generators)
        sigma = inputs.schedule.sigma(t)
        embeds = torch.where(dropped[:, None, None], inputs.null.embeds, batch.embeds)
        pooled = torch.where(dropped[:, None], inputs.null.pooled, batch.pooled)
        # Active until the end, since gradient checkpointing repeats the forward during backward.
        with adapters.active(inputs.transformer, *fake_score_names(inputs.transformer)):
            z_t = add_noise(z_hat, noise, sigma)
            v_fake = self.network(z_t, inputs.schedule.timestep(sigma), embeds, pooled)
            loss = flow_matching_loss(v_fake, z_hat, noise).mean()
            (moment.share * loss).backward()
        return TurnOutput({"fake_score": loss.detach()})


class ScoreDistillation(LoRADistillation):
    """A LoRA student and its fake score, which is not trained if no phase has a weight for `score`.

    Attributes:
        score: the term that uses the fake score.
        fake_score: its turn, also if the run does not take it.
    """

    score: ClassVar[str]
    fake_score: FakeScoreTurn

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        config = inputs.config
        adapters.add_adapter(
            inputs.transformer,
            adapters.FAKE_SCORE,
            rank=config.lora.fake_score_rank,
            alpha=config.lora.alpha * config.lora.fake_score_rank / config.lora.rank,
            targets=adapters.ATTENTION_TARGETS,
            seed=inputs.adapter_seed,
        )
        if config.fp8_scores:
            fp8.install(inputs.transformer)
        phi = adapters.parameters(inputs.transformer, adapters.FAKE_SCORE)
        self.fake_score = FakeScoreTurn(inputs, [inputs.group("fake_score", phi, config.optimizer.fake_score_lr)])
        student = self.student_turn(self.terms())
        self.turns: tuple[Turn, ...] = (student, self.fake_score) if inputs.uses(self.score) else (student,)

    @abstractmethod
    def terms(self) -> Mapping[str, Term]:
        """The method's own terms, by name."""
