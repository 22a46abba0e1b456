"""The memory of a distillation, counted by running its training step on the meta device.

Nothing is allocated and no weights are read, so any size can be counted on any machine in seconds. The step is the one
used in training (`tsdsr.training.stepper`), for any method. A GPU additionally needs memory for its context, the
kernels' workspaces and the allocator's fragmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lpips
import torch
from torch import Tensor, nn

from tsdsr.config import Params, PhaseConfig
from tsdsr.data.dataset import Batch
from tsdsr.flow import FlowSchedule
from tsdsr.live_memory import LiveMemory, fused_attention
from tsdsr.methods import METHODS, Distillation
from tsdsr.methods.base import MethodInputs
from tsdsr.models import adapters, presets, restoring
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt
from tsdsr.models.quiet import quiet
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.training.stepper import Stepper

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

SAVED = 3  # values in a checkpoint per trained one: itself and AdamW's two moments


@dataclass(frozen=True)
class DistillMemory:
    """Bytes on one worker's device at the step's peak, and of one checkpoint on disk.

    Attributes:
        weights: everything frozen, and the prompts.
        trained: adapters, their gradients and moments (and EMA and DDP's buckets, if used).
        activations: the rest of the peak, the batch included.
    """

    weights: int
    trained: int
    activations: int
    checkpoint: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


class StepMemoryProbe:
    """The step of these params on untrained networks of the preset's shape, with one micro-batch of random numbers.

    Args:
        params: `teacher.preset`, `data` and `distill` are read.
        device: on meta the step is counted; on others it is executed.
    """

    def __init__(self, params: Params, device: torch.device) -> None:
        self.params, self.device = params, device
        self.preset, config = presets.get(params.teacher.preset), params.distill
        self.perceptual = lpips.LPIPS(net=config.lpips.net, pnet_rand=True, verbose=False).to(device).eval()
        self.perceptual.requires_grad_(False)
        cached = getattr(torch, params.precompute.dtype)
        self.null, self.default = self._prompt(dtype=cached), self._prompt(dtype=torch.float32)
        self.vae, self.transformer = self._teacher()
        self.method = self._method()
        self.stepper = Stepper(self.method, spans=[range(1)])
        self.batches = [self._batch() for _ in range(config.accumulation)]  # the trainer keeps those of a whole step
        groups = self.method.groups()
        self.optimizers = list(self.stepper.optimizers.values())
        self.trained = [parameter for group in groups for parameter in group.parameters.values()]
        averaged = [p for group in groups if group.averaged for p in group.parameters.values()]
        self.ema = [torch.empty_like(p) for p in averaged] if config.ema_decay else []
        self.copies = [*self.ema, *(torch.empty_like(p) for p in self.trained if config.num_workers > 1)]  # DDP's

    def step(self, phase: PhaseConfig) -> None:
        """A whole step of one micro-batch, with its updates."""
        self.stepper.take(0, phase, self.batches[:1])

    def prime(self) -> None:
        """Create gradients and moments as after a step."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in self.optimizers:
            optimizer.step(0)

    def peak(self, phase: PhaseConfig) -> int:
        """Live bytes at the peak of a step that is not the first."""
        self.prime()
        with fused_attention(), LiveMemory(self.device, self.tensors()) as memory:
            self.step(phase)
        return memory.peak

    def networks(self) -> tuple[nn.Module, ...]:
        return tuple(turn.network for turn in self.method.turns)

    def weights(self) -> Iterator[Tensor]:
        """The tensors of the networks, the trained ones among them, and the prompts."""
        # several networks share one transformer, and none has to hold the decoder
        modules = nn.ModuleList([*self.networks(), self.vae, self.perceptual])
        yield from modules.parameters()
        yield from modules.buffers()
        yield from (*vars(self.null).values(), *vars(self.default).values())

    def tensors(self) -> Iterator[Tensor]:
        """The tensors that exist before and after a step."""
        yield from self.weights()
        yield from self.copies
        yield from (value for batch in self.batches for value in vars(batch).values() if isinstance(value, Tensor))
        yield from (p.grad for p in self.trained if p.grad is not None)
        for optimizer in self.optimizers:
            yield from (value for state in optimizer.adamw.state.values() for value in state.values())

    def _teacher(self) -> tuple[AutoencoderKL, SD3Transformer2DModel]:
        finetune, dtype = self.params.teacher.finetune, getattr(torch, self.params.distill.precision)
        with quiet(), torch.device(self.device):
            vae = presets.build_vae(self.preset, seed=0, device=self.device.type).to(dtype).eval()
            transformer = presets.build_transformer(self.preset, seed=0, device=self.device.type).to(dtype).eval()
            if finetune.enabled:
                lora: dict[str, Any] = {"rank": finetune.rank, "alpha": finetune.rank, "seed": 0}
                adapters.add_adapter(
                    transformer, adapters.TEACHER, targets=adapters.ATTENTION_TARGETS, trainable=False, **lora
                )
        return vae, transformer

    def _method(self) -> Distillation:
        method, restorer = METHODS[self.params.distill.method], None
        if method.restores:
            config = self.params.teacher.restorer
            restoring.attach(self.transformer, rank=config.rank, seed=0, trainable=False)
            restorer = RestoringTeacher(self.transformer, self.default)
        inputs = MethodInputs(
            self.params.distill,
            self.vae,
            self.transformer,
            FlowSchedule(3.0),
            self.null,
            self.default,
            lambda x_hat, hq: self.perceptual(x_hat.float(), hq.float()).flatten(),
            scale=self.params.data.scale,
            use_shift=self.params.teacher.use_shift,
            seed=0,
            adapter_seed=0,
            restorer=restorer,
        )
        with quiet(), torch.device(self.device):
            return method(inputs)

    def _prompt(self, *rows: int, dtype: torch.dtype) -> Prompt:
        shape, options = self.preset.shape["transformer"], {"device": self.device, "dtype": dtype}
        embeds = torch.randn(*rows, self.preset.prompt_tokens, shape["joint_attention_dim"], **options)
        return Prompt(embeds, torch.randn(*rows, shape["pooled_projection_dim"], **options))

    def _batch(self) -> Batch:
        config, data = self.params.distill, self.params.data
        rows = config.batch_size // max(1, config.num_workers) // config.accumulation
        side = config.augment.crop_size or data.crop_size
        latent = side // LatentCodec(self.vae, use_shift=False).factor
        prompt = self._prompt(rows, dtype=self.null.embeds.dtype)
        lq, hq = (
            torch.rand(rows, 3, pixels, pixels, device=self.device) * 2 - 1 for pixels in (side // data.scale, side)
        )
        z = torch.randn(rows, self.vae.config.latent_channels, latent, latent, device=self.device)
        return Batch(lq, hq, z, prompt.embeds, prompt.pooled, positions=tuple(range(rows)), names=("",) * rows)


def count(params: Params) -> DistillMemory:
    """The memory for the params' teacher preset, crop size and memory options; the peak is the largest of all
    phases."""
    config = METHODS[params.distill.method].for_counting(params.distill)
    probe = StepMemoryProbe(params.model_copy(update={"distill": config}), torch.device("meta"))
    peak = max(probe.peak(phase) for phase in hungriest(params))
    trained, copies = _bytes(probe.trained), _bytes(probe.copies)
    frozen = _bytes(tensor for tensor in probe.weights() if not tensor.requires_grad)
    held = 4 * trained + copies  # itself, its gradient, AdamW's two moments
    return DistillMemory(frozen, held, peak - frozen - held, SAVED * trained + _bytes(probe.ema))


def hungriest(params: Params) -> list[PhaseConfig]:
    """The phases whose losses are not a subset of another phase's."""
    kinds: dict[frozenset[str], PhaseConfig] = {}
    for phase in params.distill.phases.values():
        switches = phase.model_dump(exclude={"share", "losses"})  # a method's own, such as dasm
        terms = frozenset(name for name, value in {**phase.losses, **switches}.items() if value)
        if not any(terms <= other for other in kinds):
            kinds = {other: row for other, row in kinds.items() if not other < terms} | {terms: phase}
    return list(kinds.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
