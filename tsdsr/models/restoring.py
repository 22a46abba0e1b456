"""A restoring teacher: the SD3-format transformer, conditioned on the low-quality latent z_L, sampled in K steps.

z_L enters as further input channels of the patch projection, which start at zero (as in SR3, arXiv 2104.07636, and
InstructPix2Pix, arXiv 2211.09800). Since the projection is linear, those channels are a second projection whose output
is added to the first one's: the base keeps its format and its shape, and the restoring teacher is one more adapter of
it, `restorer.safetensors`: a LoRA and that projection. The other published ways fit less well: a control branch copies
half of the transformer, and a trajectory that starts at the noised z_L is not the one that the base was trained on.

Legend: B batch, C h w latent, D the transformer's width, p patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule, euler_sample
from tsdsr.models import adapters, discriminator
from tsdsr.models.prompt import Prompt
from tsdsr.models.velocity import predict_velocity

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

RESTORER = "restorer"  # the adapter's name
FILE = "restorer.safetensors"  # in a teacher's directory
PROJECTION = "lq_projection"


def attach(transformer: SD3Transformer2DModel, *, rank: int, seed: int, trainable: bool) -> None:
    """Add the restorer's adapter and projection to a frozen transformer; the projection is zero."""
    adapters.add_adapter(
        transformer,
        RESTORER,
        rank=rank,
        alpha=rank,
        targets=adapters.STUDENT_TARGETS,
        seed=seed,
        trainable=trainable,
    )
    config: Any = transformer.config
    width, patch = config.num_attention_heads * config.attention_head_dim, config.patch_size
    projection = nn.Conv2d(config.in_channels, width, patch, stride=patch, bias=False, device=transformer.device)
    nn.init.zeros_(projection.weight)
    transformer.add_module(PROJECTION, projection.requires_grad_(trainable))


def names(transformer: nn.Module) -> tuple[str, ...]:
    """The adapters that make it: the teacher's own fine-tuning, where there is one, and the restorer's."""
    return tuple(name for name in (adapters.TEACHER, RESTORER) if adapters.has_adapter(transformer, name))


def parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """All tensors of a restorer, by name."""
    projection = transformer.get_submodule(PROJECTION)
    return {**adapters.parameters(transformer, RESTORER), f"{PROJECTION}.weight": projection.weight}


def save(transformer: nn.Module, path: str | Path) -> None:
    """Write the restorer, completely or not at all."""
    state = adapters.state_dict(transformer, RESTORER)
    state[f"{PROJECTION}.weight"] = transformer.get_submodule(PROJECTION).weight.detach().cpu().contiguous()
    with files.atomic_file(path) as aside:
        save_file(state, aside)


def load(transformer: SD3Transformer2DModel, teacher: str | Path) -> None:
    """Attach the restorer of a teacher's directory, frozen.

    Raises:
        UserError: it is missing or does not fit.
    """
    path = Path(teacher) / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; this teacher does not restore. Set teacher.restorer.enabled: true, as "
            "params/tadsr.yaml does, and run the stage teacher"
        )
    state = adapters.read_weights(path)
    weight = state.pop(f"{PROJECTION}.weight", None)
    attach(transformer, rank=adapters.rank_of(state, str(path)), seed=0, trainable=False)
    projection = transformer.get_submodule(PROJECTION)
    if weight is None or weight.shape != projection.weight.shape:
        found = "none" if weight is None else list(weight.shape)
        raise UserError(f"{path}: needs {PROJECTION}.weight of shape {list(projection.weight.shape)}, found {found}")
    adapters.load_state(transformer, RESTORER, state, origin=str(path))
    with torch.no_grad():
        projection.weight.copy_(weight)


@contextmanager
def conditioned(transformer: nn.Module, z_lq: Tensor) -> Iterator[None]:
    """Within the block a forward is the restorer's, with z_lq [B,C,h,w], for B rows or n stacked blocks of them."""
    projection = transformer.get_submodule(PROJECTION)

    def add(_: nn.Module, __: Any, patches: Tensor) -> Tensor:
        told = projection(z_lq.to(projection.weight)).flatten(2).transpose(1, 2)
        return patches + told.repeat(len(patches) // len(told), 1, 1).to(patches)

    handle = transformer.get_submodule("pos_embed").register_forward_hook(add)
    try:
        with adapters.active(transformer, *names(transformer)):
            yield
    finally:
        handle.remove()


class RestoringTeacher(nn.Module):
    """The transformer as a restorer, with the one prompt that it is trained and used with; no guidance.

    Args:
        transformer: with a restorer attached.
    """

    def __init__(self, transformer: SD3Transformer2DModel, prompt: Prompt) -> None:
        super().__init__()
        self.transformer, self._prompt = transformer, prompt

    def forward(self, z_t: Tensor, timestep: Tensor, z_lq: Tensor) -> Tensor:
        """z_t [nB,C,h,w], timestep [nB] = 1000 sigma, z_lq [B,C,h,w] -> velocity like z_t, float32 or wider."""
        with conditioned(self.transformer, z_lq):
            return predict_velocity(self.transformer, z_t, timestep, self._prompt.embeds, self._prompt.pooled)

    def features(self, z_t: Tensor, timestep: Tensor, z_lq: Tensor) -> list[Tensor]:
        """The interface for `discriminator.features`."""
        with conditioned(self.transformer, z_lq):
            return discriminator.features(self.transformer, z_t, timestep, self._prompt.embeds, self._prompt.pooled)

    @torch.no_grad()
    def restore(self, z_lq: Tensor, noise: Tensor, schedule: FlowSchedule, steps: int) -> Tensor:
        """K = `steps` Euler steps from `noise`; both [B,C,h,w]."""
        return euler_sample(lambda z_t, timestep: self(z_t, timestep, z_lq), noise, schedule, steps)
