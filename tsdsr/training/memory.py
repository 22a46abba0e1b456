"""How much memory a distillation asks for: its own training step, run on the meta device and counted.

Nothing is allocated and no weights are read, so any size is counted on any machine in seconds. The step is the one that
trains (`Distiller`), both turns, in the loop's order. Beyond it a GPU holds its context, its kernels' workspaces and
what its allocator cannot reuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import lpips
import torch
from torch import Tensor, nn

from tsdsr.config import Params, PhaseConfig
from tsdsr.data.dataset import Batch
from tsdsr.flow import FlowSchedule
from tsdsr.live_memory import LiveMemory, fused_attention
from tsdsr.models import adapters, presets
from tsdsr.models.prompt import Prompt
from tsdsr.models.quiet import quiet
from tsdsr.models.student import Student
from tsdsr.training.networks import assemble, trainable
from tsdsr.training.optim import NetworkOptimizer
from tsdsr.training.step import DistillationModel, Distiller

SAVED = 3  # numbers of a checkpoint for each trained one: itself and AdamW's two moments


@dataclass(frozen=True)
class DistillMemory:
    """Bytes on one worker's device at the step's peak, and of one checkpoint on disk.

    Attributes:
        weights: everything frozen, and the prompts.
        trained: adapters, their gradients and moments (and EMA, and DDP's buckets, where there are any).
        activations: the rest of the peak, the batch included.
    """

    weights: int
    trained: int
    activations: int
    checkpoint: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


class Rehearsal:
    """The step of these params on untrained networks of the preset's shape, with one micro-batch of random numbers.

    Args:
        params: whose `teacher.preset`, `data` and `distill` count.
        device: meta counts; elsewhere the step really runs.
    """

    def __init__(self, params: Params, device: torch.device) -> None:
        self.params, self.device = params, device
        self.preset, config = presets.get(params.teacher.preset), params.distill
        self.student = self._networks()
        self.perceptual = lpips.LPIPS(net=config.lpips.net, pnet_rand=True, verbose=False).to(device).eval()
        self.perceptual.requires_grad_(False)
        self.null, self.default = self._prompt(), self._prompt()
        self.batches = [self._batch() for _ in range(config.accumulation)]  # the loop holds a whole step's
        self.distiller = Distiller(
            DistillationModel(self.student, self.default),
            self.student,
            null=self.null,
            schedule=FlowSchedule(3.0),
            perceptual=lambda x_hat, hq: self.perceptual(x_hat.float(), hq.float()).flatten(),
            config=config,
            scale=params.data.scale,
            seed=0,
        )
        student, fake = trainable(self.student)
        self.optimizers = [
            NetworkOptimizer(named, 1e-6, 1, config.optimizer, config.lr_schedule) for named in (student, fake)
        ]
        self.trained = [*student.values(), *fake.values()]
        self.ema = [torch.empty_like(p) for p in student.values()] if config.ema_decay else []
        self.copies = [*self.ema, *(torch.empty_like(p) for p in self.trained if config.num_workers > 1)]  # DDP's

    def step(self, phase: PhaseConfig) -> None:
        """Both turns over one micro-batch, with their updates, as the loop takes them."""
        student, fake = self.optimizers
        student.zero_grad()
        z_hat = self.distiller.student_turn(self.batches[0], phase).z_hat
        student.clip()
        student.step(0)
        fake.zero_grad()
        self.distiller.fake_score_turn(self.batches[0], z_hat, update=0)
        fake.clip()
        fake.step(0)

    def prime(self) -> None:
        """Leave gradients and moments as a step leaves them."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in self.optimizers:
            optimizer.step(0)

    def peak(self, phase: PhaseConfig) -> int:
        """Bytes alive at the peak of a step that has others before it."""
        self.prime()
        with fused_attention(), LiveMemory(self.device, self.tensors()) as memory:
            self.step(phase)
        return memory.peak

    def networks(self) -> tuple[nn.Module, ...]:
        return self.student.transformer, self.student.vae

    def weights(self) -> Iterator[Tensor]:
        """The networks', the adapters among them, and the prompts."""
        for module in (*self.networks(), self.perceptual):
            yield from module.parameters()
            yield from module.buffers()
        yield from (*vars(self.null).values(), *vars(self.default).values())

    def tensors(self) -> Iterator[Tensor]:
        """All that is there before a step and after it."""
        yield from self.weights()
        yield from self.copies
        yield from (value for batch in self.batches for value in vars(batch).values() if isinstance(value, Tensor))
        yield from (p.grad for p in self.trained if p.grad is not None)
        for optimizer in self.optimizers:
            yield from (value for state in optimizer.adamw.state.values() for value in state.values())

    def _networks(self) -> Student:
        config, finetune = self.params.distill, self.params.teacher.finetune
        dtype = getattr(torch, config.precision)
        with quiet(), torch.device(self.device):
            vae = presets.build_vae(self.preset, seed=0, device=self.device.type).to(dtype).eval()
            transformer = presets.build_transformer(self.preset, seed=0, device=self.device.type).to(dtype).eval()
            if finetune.enabled:
                lora: dict[str, Any] = {"rank": finetune.rank, "alpha": finetune.rank, "seed": 0}
                adapters.add_adapter(
                    transformer, adapters.TEACHER, targets=adapters.ATTENTION_TARGETS, trainable=False, **lora
                )
            return assemble(vae, transformer, config, use_shift=self.params.teacher.use_shift, seed=0)

    def _prompt(self, *rows: int) -> Prompt:
        shape = self.preset.shape["transformer"]
        embeds = torch.randn(*rows, self.preset.prompt_tokens, shape["joint_attention_dim"], device=self.device)
        return Prompt(embeds, torch.randn(*rows, shape["pooled_projection_dim"], device=self.device))

    def _batch(self) -> Batch:
        config, data = self.params.distill, self.params.data
        rows = config.batch_size // max(1, config.num_workers) // config.accumulation
        side = config.augment.crop_size or data.crop_size
        latent = side // self.student.codec.factor
        prompt = self._prompt(rows)
        lq, hq = (
            torch.rand(rows, 3, pixels, pixels, device=self.device) * 2 - 1 for pixels in (side // data.scale, side)
        )
        z = torch.randn(rows, self.student.vae.config.latent_channels, latent, latent, device=self.device)
        return Batch(lq, hq, z, prompt.embeds, prompt.pooled, positions=tuple(range(rows)), names=("",) * rows)


def count(params: Params) -> DistillMemory:
    """For the params' teacher preset, crop size and memory options; the peak is the hungriest phase's."""
    one_point = {"distill": {"tsd": {"dasm": {"steps": min(1, params.distill.tsd.dasm.steps)}}}}
    rehearsal = Rehearsal(params.overlay(one_point), torch.device("meta"))  # further points repeat the second
    peak = max(rehearsal.peak(phase) for phase in hungriest(params))
    trained, copies = _bytes(rehearsal.trained), _bytes(rehearsal.copies)
    frozen = _bytes(tensor for tensor in rehearsal.weights() if not tensor.requires_grad)
    held = 4 * trained + copies  # itself, its gradient, AdamW's two moments
    return DistillMemory(frozen, held, peak - frozen - held, SAVED * trained + _bytes(rehearsal.ema))


def hungriest(params: Params) -> list[PhaseConfig]:
    """The phases whose losses are not all some other phase's as well."""
    kinds: dict[frozenset[str], PhaseConfig] = {}
    for phase in params.distill.phases.values():
        terms = frozenset([name for name, weight in phase.losses.items() if weight > 0] + ["dasm"] * phase.dasm)
        if not any(terms <= other for other in kinds):
            kinds = {other: row for other, row in kinds.items() if not other < terms} | {terms: phase}
    return list(kinds.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
