"""The trainings of a teacher, each from the beginning or its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tsdsr.config import PhaseConfig, TeacherDecoderConfig, TeacherFlowConfig, TeacherRestorerConfig, TeacherVAEConfig
from tsdsr.data.dataset import DistillationData
from tsdsr.device import use_tensor_cores
from tsdsr.flow import FlowSchedule
from tsdsr.methods.base import Method
from tsdsr.methods.decoder import DecoderTraining
from tsdsr.methods.restorer import RestorerTraining, RestorerTurn
from tsdsr.methods.teacher import AutoencoderTraining, FlowData, FlowTraining, crop_data, flow_data, training_group
from tsdsr.models import restoring
from tsdsr.models.codec import LatentCodec
from tsdsr.models.linear_start import linear_start
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.training.checkpoint import CheckpointStore
from tsdsr.training.trainer import Callbacks, Plan, Trainer, TrainingData

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

START_PIXELS = 2**22  # of the evenly spaced images for an autoencoder's linear start
CURVE_EVERY = 10  # steps averaged in a row of the curve

Values = dict[str, float]


@dataclass(frozen=True)
class Session:
    """The checkpoints and callbacks of a training.

    Attributes:
        store: of its checkpoints. every: steps between two; there is always one of the last step.
        on_step: called with each finished step (from 1) and the latest losses.
        stop: called after each step; True ends the training with a checkpoint.
    """

    store: CheckpointStore
    every: int
    on_step: Callable[[int, Values], None]
    stop: Callable[[], bool]


def train_vae(
    vae: AutoencoderKL, images: Tensor, config: TeacherVAEConfig, *, seed: int, session: Session
) -> list[Values]:
    """Train an autoencoder in place on crops of `images`; returns the curve of its losses.

    Args:
        vae: untrained, on the device.
        images: [N,3,H,W] in [-1, 1], on the CPU.

    Raises:
        Stopped: by the session. NonFiniteError: it diverged.
    """
    every = -(-images[:, 0].numel() // START_PIXELS)  # its least squares need 2 kB per pixel
    device = vae.device
    linear_start(vae.cpu(), images[::every])
    vae.to(device).train()
    crops = crop_data(images, config, seed=seed, purpose="vae")
    curve = _fit(AutoencoderTraining(vae, config), crops, config, session, vae.device)
    vae.eval().requires_grad_(False)
    return curve


def refine_decoder(
    vae: AutoencoderKL, images: Tensor, config: TeacherDecoderConfig, *, seed: int, session: Session
) -> list[Values]:
    """Train the decoder in place against a discriminator, with a frozen encoder; arguments as in `train_vae`."""
    vae.decoder.requires_grad_(True)
    crops = crop_data(images, config, seed=seed, purpose="decoder")
    curve = _fit(DecoderTraining(vae, config, seed=seed), crops, config, session, vae.device)
    vae.eval().requires_grad_(False)
    return curve


def train_flow(
    transformer: SD3Transformer2DModel,
    parameters: Mapping[str, nn.Parameter],
    data: FlowData,
    config: TeacherFlowConfig,
    schedule: FlowSchedule,
    *,
    seed: int,
    shift_positions: bool,
    session: Session,
) -> list[Values]:
    """Train in place; returns the curve of the loss.

    Args:
        transformer: on the device and in the dtype to train in; adapters that take part are active.
        parameters: the trained ones, in float32.
        shift_positions: use random positions within the model's sample size.

    Raises:
        Stopped: by the session. NonFiniteError: it diverged.
    """
    transformer.train()
    grid = (transformer.config.sample_size, transformer.config.patch_size) if shift_positions else None
    batches = flow_data(data, config, schedule, seed=seed, grid=grid)
    method = FlowTraining(transformer, parameters, config, schedule)
    curve = _fit(method, batches, config, session, transformer.device)
    transformer.eval().requires_grad_(False)
    return curve


def train_restorer(
    restorer: RestoringTeacher,
    codec: LatentCodec,
    data: DistillationData,
    config: TeacherRestorerConfig,
    schedule: FlowSchedule,
    *,
    scale: int,
    seed: int,
    session: Session,
) -> list[Values]:
    """Train a restorer in place; returns the curve of the loss.

    Args:
        restorer: on the device and in the dtype to train in. codec: of its frozen autoencoder.
        scale: HQ side / LQ side.

    Raises:
        Stopped: by the session. NonFiniteError: it diverged.
    """
    restorer.transformer.train()
    group = training_group("restorer", restoring.parameters(restorer.transformer), config)
    turn = RestorerTurn(restorer, codec, schedule, [group], scale=scale, seed=seed)
    curve = _fit(RestorerTraining(turn), data, config, session, restorer.transformer.device)
    restorer.transformer.eval().requires_grad_(False)
    return curve


def _fit(
    method: Method,
    data: TrainingData,
    config: TeacherVAEConfig | TeacherDecoderConfig | TeacherFlowConfig | TeacherRestorerConfig,
    session: Session,
    device: torch.device,
) -> list[Values]:
    """Returns the curve: each `CURVE_EVERY` steps and at the end, the `step` and the terms' means."""
    plan = Plan(
        steps=config.steps,
        batch_size=config.batch_size,
        phases={"all": PhaseConfig(share=1.0, losses={"all": 1.0})},
        log_every=CURVE_EVERY,
        checkpoint_every=session.every,
    )
    use_tensor_cores(device)
    callbacks = Callbacks(on_step=session.on_step, stop=session.stop)
    trainer = Trainer(method, data, session.store, plan=plan, device=device, callbacks=callbacks)
    trainer.run()
    return trainer.history
