"""How much memory a distillation asks for, counted on the meta device: no weights are read and nothing is allocated.

An estimate: weights, adapters and optimiser state are exact; activations are the outputs of every layer that autograd
may keep. Kernels' workspaces and fragmentation come on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tsdsr.config import Params
from tsdsr.models import adapters, presets

GIB = 2**30
FLOAT32 = 4
# A trained float32 number: itself, its gradient, and AdamW's two moments.
TRAINED = 4 * FLOAT32
SAVED = 3 * FLOAT32  # in a checkpoint: the number and its moments
Outputs = list[tuple[str, int]]  # name of a layer, numbers in its output


@dataclass(frozen=True)
class DistillMemory:
    """Bytes on one worker's device, and of one checkpoint on disk."""

    weights: int
    trained: int
    activations: int
    checkpoint: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


def estimate(params: Params) -> DistillMemory:
    """For the params' teacher preset, crop size and memory options."""
    config, preset = params.distill, presets.get(params.teacher.preset)
    width = torch.finfo(getattr(torch, config.precision)).bits // 8
    transformer = presets.build_transformer(preset, seed=0, device="meta")
    vae = presets.build_vae(preset, seed=0, device="meta")
    rank = config.lora.rank
    student = _lora_size(transformer, rank, _ends_with(adapters.STUDENT_TARGETS))
    student += _lora_size(vae, config.lora.vae_rank, re.compile(adapters.VAE_ENCODER_TARGETS))
    fake = _lora_size(transformer, rank, _ends_with(adapters.ATTENTION_TARGETS))
    rows = config.batch_size // max(1, config.num_workers) // config.accumulation
    saved = _activations(params, transformer, vae, rows) * width
    return DistillMemory(
        weights=width * sum(p.numel() for model in (transformer, vae) for p in model.parameters()),
        trained=TRAINED * (student + fake),
        activations=saved,
        checkpoint=SAVED * (student + fake),
    )


def _lora_size(model: nn.Module, rank: int, targets: re.Pattern[str]) -> int:
    """Numbers in a LoRA on the layers whose whole name matches."""
    size = 0
    for name, layer in model.named_modules():
        if not targets.fullmatch(name):
            continue
        if isinstance(layer, nn.Linear):
            size += rank * (layer.in_features + layer.out_features)
        elif isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            size += rank * (layer.in_channels * area + layer.out_channels)
    return size


def _ends_with(targets: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(.*\.)?(" + "|".join(map(re.escape, targets)) + ")")


def _activations(params: Params, transformer: Any, vae: Any, rows: int) -> int:
    """Numbers that the student's forward keeps for its backward."""
    preset, side = presets.get(params.teacher.preset), params.data.crop_size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    latent = torch.empty(rows, vae.config.latent_channels, side // factor, side // factor, device="meta")
    config = transformer.config
    with _counted(vae) as encoder:
        vae.encode(torch.empty(rows, 3, side, side, device="meta"))
    with _counted(transformer) as middle:
        transformer(
            hidden_states=latent,
            timestep=torch.empty(rows, device="meta"),
            encoder_hidden_states=torch.empty(rows, preset.prompt_tokens, config.joint_attention_dim, device="meta"),
            pooled_projections=torch.empty(rows, config.pooled_projection_dim, device="meta"),
        )
    with _counted(vae) as decoder:
        vae.decode(latent)
    networks = (encoder, middle, decoder)
    if params.distill.gradient_checkpointing:  # what leaves each block, and one block's inside at a time
        blocks = [block for network in networks for block in _blocks(network)]
        return max(sum(block) for block in blocks) + sum(block[-1] for block in blocks)
    return sum(numbers for network in networks for _, numbers in network)


def _blocks(outputs: Outputs) -> list[list[int]]:
    """Grouped by the block a layer is in: the unit that gradient checkpointing runs again."""
    blocks: dict[str, list[int]] = {}
    for name, numbers in outputs:
        match = re.match(r".*?(blocks\.\d+|mid_block)", name)
        blocks.setdefault(match[0] if match else name, []).append(numbers)
    return list(blocks.values())


@contextmanager
def _counted(model: nn.Module) -> Iterator[Outputs]:
    """Within the `with`, the numbers in the output of every leaf module, in the order in which they run."""
    count: Outputs = []

    def note(name: str, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            count.append((name, output.numel()))

    leaves = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(lambda _, __, output, name=name: note(name, output)) for name, layer in leaves]
    try:
        with torch.no_grad():
            yield count
    finally:
        for hook in hooks:
            hook.remove()
