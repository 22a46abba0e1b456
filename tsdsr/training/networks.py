"""What a distillation trains: the student's and the fake score's adapters, on a frozen teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from tsdsr.config import DistillConfig
from tsdsr.models import adapters
from tsdsr.models.student import Student

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel


def assemble(
    vae: AutoencoderKL, transformer: SD3Transformer2DModel, config: DistillConfig, *, use_shift: bool, seed: int
) -> Student:
    """A student and a fake score on one frozen base, with the config's ranks and memory savings.

    Args:
        vae, transformer: a teacher's, in the base's dtype; they are changed.
        use_shift: `teacher.use_shift`.
        seed: of the adapters' start.
    """
    transformer.requires_grad_(False)
    student = Student(vae, transformer, use_shift=use_shift, vae_slice=config.vae_slice)
    lora: dict[str, Any] = {"rank": config.lora.rank, "alpha": config.lora.alpha, "seed": seed}
    student.add_adapters(**lora, vae_rank=config.lora.vae_rank)
    adapters.add_adapter(transformer, adapters.FAKE_SCORE, targets=adapters.ATTENTION_TARGETS, **lora)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
        vae.enable_gradient_checkpointing()
    return student


def trainable(student: Student) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """What the student learns and what the fake score learns; the names key the optimisers' state in checkpoints."""
    networks = {"transformer": student.transformer, "vae": student.vae}
    own = {
        f"{part}.{key}": parameter
        for part, network in networks.items()
        for key, parameter in adapters.parameters(network, adapters.STUDENT).items()
    }
    return own, adapters.parameters(student.transformer, adapters.FAKE_SCORE)
