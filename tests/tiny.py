"""Networks with random weights, the smallest that have every kind of part that SD3's have."""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr import compat

compat.apply()

from diffusers import AutoencoderKL, SD3Transformer2DModel  # noqa: E402

from tsdsr import seeding  # noqa: E402
from tsdsr.models import adapters  # noqa: E402
from tsdsr.models.prompt import Prompt  # noqa: E402

CHANNELS, TOKENS, WIDTH, POOLED = 4, 5, 12, 10


def tiny_transformer(seed: int = 0, **changes) -> SD3Transformer2DModel:
    """2 layers of 2 heads, in eval mode and frozen."""
    config = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": CHANNELS,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": POOLED,
        "out_channels": CHANNELS,
        "pos_embed_max_size": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SD3Transformer2DModel(**(config | changes))
        # diffusers starts some projections at zero; a network that ignores its inputs would prove nothing
        for parameter in model.parameters():
            parameter.data = 0.2 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def tiny_vae(seed: int = 0, **changes) -> AutoencoderKL:
    """Two levels, so 2 pixels a latent; with attention in the middle and a quant_conv."""
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "latent_channels": CHANNELS,
        "norm_num_groups": 4,
        "scaling_factor": 1.5,
        "shift_factor": 0.1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(**(config | changes))
    return model.eval().requires_grad_(False)


def random_prompt(seed: int, *rows: int) -> Prompt:
    """A prompt's embeddings, or a batch of them."""
    draw = seeding.generator(seed, "prompt")
    return Prompt(
        embeds=torch.randn(*rows, TOKENS, WIDTH, generator=draw), pooled=torch.randn(*rows, POOLED, generator=draw)
    )


def randomize(model: torch.nn.Module, name: str, scale: float = 0.1, seed: int = 0) -> None:
    """Give both halves of an adapter random values: a fresh one's B is zero, and does nothing."""
    draw = seeding.generator(seed, name)
    for parameter in adapters.parameters(model, name).values():
        parameter.data = scale * torch.randn(parameter.shape, generator=draw).to(parameter)


def relative(found: Tensor, wanted: Tensor) -> float:
    """|| found - wanted || / || wanted ||."""
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
