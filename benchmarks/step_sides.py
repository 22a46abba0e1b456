"""The two training steps that benchmarks compare, ours and the literal one, on equal weights, batch and noise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.algorithm1 import Draws, LiteralStep
from tests.reference.sides import draws_of, pefts_own, settings_of
from tsdsr import seeding
from tsdsr.config import Params, TSDSRConfig
from tsdsr.config.methods.tsdsr import TSDPhaseConfig
from tsdsr.data.dataset import Batch
from tsdsr.data.targets import PhotographTargets
from tsdsr.flow import FlowSchedule
from tsdsr.losses.reconstruction import PerceptualLoss
from tsdsr.methods.base import MethodInputs, Moment
from tsdsr.methods.tsdsr import TSDSR
from tsdsr.models import adapters, fp8, presets
from tsdsr.models.prompt import Prompt
from tsdsr.training.stepper import Stepper

ROOT = Path(__file__).resolve().parents[1]
RECIPES: dict[str, dict[str, Any]] = {  # distill.* of the late phase, where DASM runs
    "tiny": {"batch_size": 4, "crop": 128, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
    "sd3-medium": {"batch_size": 1, "crop": 512, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
}
DRAWS = 2  # noises a photograph
LR = 1.0e-6
LOSSES = {"lpips": 1.0, "tsd": 2.0, "latent_mse": 1.0}
PHASE = TSDPhaseConfig(share=1.0, dasm=True, losses=LOSSES)


def build(
    preset_name: str, device: torch.device, folder: str, dtype: torch.dtype = torch.float32
) -> tuple[Ours, Literal, Ours]:
    """Both steps on equal weights, and ours with psi on the photographs' trajectories precomputed (in `folder`).

    The last one draws other noises, so its gradients are not compared here; that its step equals the one without
    precomputation is tested in `tests/tsdsr/methods/test_trajectories.py`.
    """
    config = recipe(preset_name)
    preset = presets.get(preset_name)
    torch.manual_seed(0)
    method = untrained(preset, config, device, dtype)
    transformer, vae = method.inputs.transformer, method.inputs.vae
    copies = tuple(pefts_own(copy.deepcopy(model)) for model in (transformer, transformer, vae))
    if dtype != torch.float32:
        for model, name in zip((*copies, copies[-1]), ("forward", "forward", "encode", "decode"), strict=True):
            setattr(model, name, torch.autocast(device.type, dtype)(getattr(model, name)))
    batch = random_batch(preset, config.batch_size, RECIPES[preset_name]["crop"], method, device)
    literal = Literal(copies, method.inputs, batch, draws_of(config, batch))
    trajectories = PhotographTargets(folder, "benchmark")
    ours, precomputed = Ours(method, batch), Ours(method, batch, trajectories)
    trajectories.prepare(batch.names, precomputed.photograph_trajectories)
    return ours, literal, precomputed


def recipe(preset_name: str) -> TSDSRConfig:
    """params.yaml's recipe at the preset's size, with a learning rate of nearly zero, which keeps the weights."""
    sizes = RECIPES[preset_name]
    overlay = {
        "batch_size": sizes["batch_size"],
        "lora": sizes["lora"],
        "num_workers": 1,
        "shift_positions": False,
        "tsd": {"trajectory_draws": DRAWS},
        "optimizer": {"student_lr": LR, "fake_score_lr": LR},
    }
    config = Params.load(ROOT / "params.yaml").overlay({"distill": overlay}).distill
    assert isinstance(config, TSDSRConfig)
    return config


def untrained(preset: presets.Preset, config: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> TSDSR:
    """TSD-SR on a teacher with random weights and adapters; B is not zero, so that all weights affect the result."""
    transformer = (
        presets.build_transformer(preset, seed=0, device=device.type).to(device, dtype).requires_grad_(False).eval()
    )
    vae = presets.build_vae(preset, seed=0, device=device.type).to(device, dtype).requires_grad_(False).eval()
    randomize_zeros(transformer)
    null, default = (random_prompt(preset, label) for label in ("null", "default"))
    inputs = MethodInputs(
        config,
        vae,
        transformer,
        FlowSchedule(3.0),
        null=Prompt(null.embeds.to(device), null.pooled.to(device)),
        default=Prompt(default.embeds.to(device), default.pooled.to(device)),
        perceptual=PerceptualLoss("alex", "random").to(device),
        scale=4,
        use_shift=False,
        seed=0,
        adapter_seed=0,
    )
    method = TSDSR(inputs)
    for model, name in ((transformer, adapters.STUDENT), (transformer, adapters.FAKE_SCORE), (vae, adapters.STUDENT)):
        draw = seeding.generator(0, "benchmark", name)
        for key, parameter in adapters.parameters(model, name).items():
            if "lora_B" in key:
                parameter.data = (0.02 * torch.randn(parameter.shape, generator=draw)).to(parameter)
    return method


def randomize_zeros(model: nn.Module) -> None:
    """Randomize the layers that diffusers initializes with zero, which would hide all layers before them."""
    draw = seeding.generator(0, "zeros")
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data = (0.02 * torch.randn(parameter.shape, generator=draw)).to(parameter)


def random_batch(preset: presets.Preset, rows: int, crop: int, method: TSDSR, device: torch.device) -> Batch:
    draw = seeding.generator(0, "batch")
    prompt = random_prompt(preset, "caption", rows)
    hq = torch.rand(rows, 3, crop, crop, generator=draw) * 2 - 1
    lq = nn.functional.avg_pool2d(hq, 4)
    side = crop // method.student.codec.factor
    z = torch.randn(rows, method.student.vae.config.latent_channels, side, side, generator=draw)
    places = tuple(range(rows))
    batch = Batch(lq, hq, z, prompt.embeds, prompt.pooled, positions=places, names=tuple(map(str, places)))
    return batch.to(device)


def random_prompt(preset: presets.Preset, label: str, *rows: int) -> Prompt:
    draw, shape = seeding.generator(0, "prompt", label), preset.shape["transformer"]
    embeds = torch.randn(*rows, preset.prompt_tokens, shape["joint_attention_dim"], generator=draw)
    return Prompt(embeds, torch.randn(*rows, shape["pooled_projection_dim"], generator=draw))


class Ours:
    """The trainer's step. Several share one method, which each switches to its own options.

    Attributes:
        trajectories: psi on the photographs' trajectories, precomputed.
        compiled: whether `torch.compile` runs the transformer's blocks.
        fp8_scores: `distill.fp8_scores`.
    """

    def __init__(
        self,
        method: TSDSR,
        batch: Batch,
        trajectories: PhotographTargets | None = None,
        *,
        compiled: bool = False,
        fp8_scores: bool = False,
    ) -> None:
        self.method, self.batch, self.trajectories, self.fp8_scores = method, batch, trajectories, fp8_scores
        self.stepper = Stepper(method, spans=[range(1000)])
        blocks = method.inputs.transformer.transformer_blocks if compiled else ()
        self.forwards = [(block, torch.compile(block.forward, dynamic=False)) for block in blocks]

    @contextmanager
    def switched(self) -> Iterator[None]:
        """Within the block the method has this side's options."""
        method, inputs = self.method, self.method.inputs
        if self.fp8_scores and not fp8.installed(inputs.transformer):
            fp8.install(inputs.transformer)
        method.trajectories = self.trajectories
        method.inputs = replace(inputs, config=inputs.config.model_copy(update={"fp8_scores": self.fp8_scores}))
        for block, forward in self.forwards:
            block.forward = forward
        try:
            yield
        finally:
            method.inputs = inputs
            for block, _ in self.forwards:
                del block.forward

    def whole_step(self, number: int) -> None:
        with self.switched():
            self.stepper.take(number, PHASE, [self.batch])

    def gradients(self) -> dict[str, Tensor]:
        """Every loss and every gradient, after both turns without an update."""
        with self.switched():
            return self._gradients()

    def _gradients(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        moment = Moment(0, 1000, PHASE)
        for turn in self.method.turns:
            for group in turn.groups:
                self.stepper.optimizers[group.name].zero_grad()
            output = turn.run(self.batch, moment)
            moment = Moment(0, 1000, PHASE, carried=output.carried)
            found |= {f"loss.{name}": value for name, value in output.terms.items()}
            for group in turn.groups:
                found |= {f"{group.name}.{key}": p.grad.clone() for key, p in group.parameters.items()}
        return found

    def photograph_trajectories(self, name: str) -> Tensor:
        row, batch = self.batch.names.index(name), self.batch
        caption = Prompt(batch.embeds[row], batch.pooled[row])
        return self.method.photograph_trajectories(name, batch.z[row], caption)


class Literal:
    """The literal step, on copies of the same networks."""

    def __init__(self, networks: tuple[Any, Any, Any], inputs: MethodInputs, batch: Batch, draws: Draws) -> None:
        self.generator, self.scorer, self.vae = networks
        self.batch, self.draws = batch, draws
        settings = settings_of(inputs.config, LOSSES)
        default, null = ((prompt.embeds, prompt.pooled) for prompt in (inputs.default, inputs.null))
        self.step = LiteralStep(self.generator, self.scorer, self.vae, default, null, inputs.perceptual, settings)
        own = {
            f"{part}.{key}": parameter
            for part, model in (("transformer", self.generator), ("vae", self.vae))
            for key, parameter in adapters.parameters(model, adapters.STUDENT).items()
        }
        named = {"student": own, "fake_score": adapters.parameters(self.scorer, adapters.FAKE_SCORE)}
        self.optimizers = {name: PlainOptimizer(inputs.config, group) for name, group in named.items()}

    def student_turn(self) -> dict[str, Tensor]:
        batch = self.batch
        losses = self.step.student_turn(batch.lq, batch.hq, batch.z, (batch.embeds, batch.pooled), self.draws)
        self.z_hat = losses.pop("z_hat")
        return losses

    def fake_score_turn(self) -> dict[str, Tensor]:
        caption = (self.batch.embeds, self.batch.pooled)
        return {"fake_score": self.step.fake_score_turn(self.z_hat, caption, self.draws)}

    def whole_step(self, number: int) -> None:
        turns = zip((self.student_turn, self.fake_score_turn), self.optimizers.values(), strict=True)
        for turn, optimizer in turns:
            optimizer.zero_grad()
            turn()
            optimizer.clip()
            optimizer.step(number)

    def gradients(self) -> dict[str, Tensor]:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        losses = {**self.student_turn(), **self.fake_score_turn()}
        found = {f"loss.{name}": value for name, value in losses.items()}
        for name, optimizer in self.optimizers.items():
            found |= {f"{name}.{key}": p.grad.clone() for key, p in optimizer.named.items()}
        return found


class PlainOptimizer:
    """AdamW and clipping, as in a plain script."""

    def __init__(self, config: Any, named: dict[str, nn.Parameter]) -> None:
        self.named, self.config = named, config.optimizer
        self.adamw = torch.optim.AdamW(
            named.values(), lr=LR, betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay
        )

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.named.values(), self.config.clip_norm)

    def step(self, step: int) -> None:
        self.adamw.step()
