"""The interface of a method: turns, each of which updates some parameters, and for a distillation its inputs and
outputs.

In each step the trainer runs every turn of `Method.turns` in order, each over the step's micro-batches and with its own
optimisers. A turn computes the forward and the backward; the trainer updates. A new method is a file here, a file in
`tsdsr.config.methods` and a line in each `__init__`.

Legend: B batch, H W pixels, C h w latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import AdamWConfig, ScheduleConfig
from tsdsr.data.dataset import DistillationData
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule, gaussian_like
from tsdsr.models.prompt import Prompt
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.velocity import moved_positions, room_beside

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel


class Phase(Protocol):
    """A part of the run with its own recipe: `tsdsr.config.PhaseConfig` and its subclasses."""

    @property
    def share(self) -> float: ...


@dataclass(frozen=True)
class Group:
    """Parameters with one optimiser.

    Attributes:
        name: the key in checkpoints (`<name>/...`) and curves (`<name>_grad_norm`, `<name>_lr`).
        parameters: by name; float32, with `requires_grad` set.
        lr: the schedule's highest learning rate.
        adamw: decay, betas and the norm for clipping.
        schedule: of the learning rate.
        buffers: further state that the turn changes; saved and restored with the parameters.
        averaged: whether it has an exponential moving average if the run uses one; the average is exported.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    lr: float
    adamw: AdamWConfig
    schedule: ScheduleConfig
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    averaged: bool = False


@dataclass(frozen=True)
class Moment:
    """A turn's position in the run.

    Attributes:
        step, steps: the step, from 0, and the run's number of steps.
        phase: the recipe of this phase.
        update: the number of the turn's update in this step, from 0.
        share: this micro-batch's share of the accumulated batch; the loss is multiplied by it.
        carried: outputs of earlier turns of this step for this micro-batch.
    """

    step: int
    steps: int
    phase: Any
    update: int = 0
    share: float = 1.0
    carried: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class TurnOutput:
    """The results of one micro-batch; everything is detached.

    Attributes:
        terms: loss terms by name, batch means before weighting. If one is not finite, the update is skipped.
        carried: for later turns of the step, such as `z_hat`.
        statistics: further scalars for the curves.
        sigma: (B,), the noise levels of `by_noise`.
        by_noise: `Method.statistics` by name, (B,) each: averaged by phase and noise level.
    """

    terms: dict[str, Tensor]
    carried: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    sigma: Tensor | None = None
    by_noise: dict[str, Tensor] = field(default_factory=dict)


class Turn(ABC):
    """One kind of update in a step.

    Attributes:
        name: of the turn.
        network: has the parameters and is called as `self.network(...)`; the trainer wraps it in DDP.
        groups: the parameters that it updates.
        updates: updates in a step, each from its own forward. every: steps between two of its steps.
    """

    name: str
    network: nn.Module
    groups: Sequence[Group]
    updates: int = 1
    every: int = 1

    @abstractmethod
    def run(self, batch: Any, moment: Moment) -> TurnOutput:
        """Forward and backward of one micro-batch: leaves gradients on the groups' parameters."""


class Method(ABC):
    """A training method.

    Attributes:
        turns: of a step, in order.
        statistics: the names in `TurnOutput.by_noise`.
    """

    turns: Sequence[Turn]
    statistics: ClassVar[tuple[str, ...]] = ()

    def groups(self) -> list[Group]:
        return [group for turn in self.turns for group in turn.groups]

    def around(self, step: int, batch: Any) -> AbstractContextManager[None]:
        """A context manager around all turns of a step."""
        return nullcontext()


@dataclass(frozen=True)
class MethodInputs:
    """The inputs of a distillation: a frozen teacher and the recipe.

    The memory probe passes networks on the meta device: a `Distillation` must not read values of tensors when it is
    made.

    Attributes:
        vae, transformer: the teacher's, on the device; adapters are added to them.
        null, default: the empty prompt and the student's.
        perceptual: (x_hat, hq) -> (B,).
        scale: HQ side / LQ side. use_shift: `teacher.use_shift`.
        seed: every draw depends on (seed, purpose, position). adapter_seed: for the initial adapters.
        restorer: the teacher that restores in several steps, where the method `restores`.
    """

    config: Any
    vae: AutoencoderKL
    transformer: SD3Transformer2DModel
    schedule: FlowSchedule
    null: Prompt
    default: Prompt
    perceptual: Callable[[Tensor, Tensor], Tensor]
    scale: int
    use_shift: bool
    seed: int
    adapter_seed: int
    restorer: RestoringTeacher | None = None

    def noise_like(self, z: Tensor, generators: list[torch.Generator]) -> Tensor:
        """`gaussian_like`, drawn on the device of `distill.noise`."""
        return gaussian_like(z, generators, on_device=self.config.noise == "device")

    def uses(self, term: str) -> bool:
        """Whether a phase has a weight for this term."""
        return any(phase.losses.get(term) for phase in self.config.phases.values())

    def group(self, name: str, parameters: Mapping[str, nn.Parameter], lr: float, **options: Any) -> Group:
        """A group with the recipe's AdamW and schedule."""
        return Group(name, parameters, lr, self.config.optimizer, self.config.lr_schedule, **options)


@contextmanager
def random_place(transformers: Sequence[Any], side: int, seed: int, step: int) -> Iterator[None]:
    """Within the block latents of `side` sit at a place of the tables of positions that (seed, step) draws, the same
    for all transformers, which have one shape."""
    shape = transformers[0].config
    room = room_beside(side, shape.sample_size, shape.patch_size)
    generator = seeding.generator(seed, "place", step)
    down, across = (torch.randint(2 * room + 1, (2,), generator=generator) - room).tolist()
    with ExitStack() as moved:
        for transformer in transformers:
            moved.enter_context(moved_positions(transformer, (down, across)))
        yield


class Distillation(Method):
    """A method that trains a one-step student.

    Attributes:
        title: in tables.
        restores: whether it distils a teacher that restores (`MethodInputs.restorer`).
        pattern_period: side in pixels of a patch of the student's transformer, the period of possible artefacts.
        inputs: what it was built from.
    """

    title: ClassVar[str]
    restores: ClassVar[bool] = False
    pattern_period: int
    inputs: MethodInputs

    def __init__(self, inputs: MethodInputs) -> None:
        """A method adds its trained parameters to the teacher's networks, and makes its turns.

        Raises:
            UserError: a phase names an unknown loss.
        """
        self.inputs = inputs

    def transformers(self) -> Sequence[nn.Module]:
        """Those that the turns call."""
        return [self.inputs.transformer]

    @contextmanager
    def around(self, step: int, batch: Any) -> Iterator[None]:
        """Move the crops to a random place in the tables of positions, the same for all turns of a step, if the recipe
        shifts positions."""
        with ExitStack() as moved:
            if self.inputs.config.shift_positions:
                moved.enter_context(random_place(self.transformers(), batch.z.shape[-1], self.inputs.seed, step))
            yield

    @classmethod
    def for_counting(cls, config: Any) -> Any:
        """A recipe whose step needs as much memory and is faster to count."""
        return config

    def prepare(self, data: DistillationData, directory: Path) -> None:
        """Before the first step, compute tensors that depend on photographs and not on the student; see
        `tsdsr.data.targets`.

        Args:
            data: the training data. directory: shared by runs; stored tensors must be keyed by everything that affects
            them.

        Raises:
            UserError: the latent cache lacks tensors that the method needs.
        """

    def go_on_from(self, student: Path) -> None:
        """Load the weights of a student directory; other trained parameters keep their initial values.

        Raises:
            UserError: the weights do not fit, or the method does not support it.
        """
        raise UserError(f"distill.start: a student of {self.title} starts from its teacher; set it to null")

    @abstractmethod
    def restore(self, x_lq: Tensor) -> Tensor:
        """Upsampled LQ images -> restored ones, both [B,3,H,W] in [-1, 1] (the latter nominally)."""

    @abstractmethod
    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Write the student directory, completely or not at all; `record` is added to its `student.json`."""
