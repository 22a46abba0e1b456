"""The two sides that benchmarks compare: our training step and the literal one, on equal weights, batch and noise."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.algorithm1 import Draws, LiteralStep, Settings
from tsdsr import seeding
from tsdsr.config import Params, PhaseConfig
from tsdsr.data.dataset import Batch
from tsdsr.flow import FlowSchedule, gaussian_like
from tsdsr.losses.reconstruction import PerceptualLoss
from tsdsr.models import adapters, composed, presets
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student
from tsdsr.training.optim import NetworkOptimizer
from tsdsr.training.step import DistillationModel, Distiller
from tsdsr.training.trajectories import HQTrajectories

ROOT = Path(__file__).resolve().parents[1]
RECIPES: dict[str, dict[str, Any]] = {  # distill.* of the late phase, where DASM runs
    "tiny": {"batch_size": 4, "crop": 128, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
    "sd3-medium": {"batch_size": 1, "crop": 512, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
}
DRAWS = 2  # noises a photograph
LOSSES = {"lpips": 1.0, "tsd": 2.0, "latent_mse": 1.0}


def build(
    preset_name: str, device: torch.device, folder: str, dtype: torch.dtype = torch.float32
) -> tuple[Ours, Literal, Ours]:
    """Both sides on equal weights, and ours with psi on the photographs' trajectories known (kept in `folder`).

    The last one draws other noises, so it has no part in the comparison of gradients; that its step equals the one that
    asks psi anew is tested in `tests/tsdsr/training/test_trajectories.py`.
    """
    recipe = RECIPES[preset_name]
    overlay = {"batch_size": recipe["batch_size"], "lora": recipe["lora"], "num_workers": 1}
    config = Params.load(ROOT / "params.yaml").overlay({"distill": overlay}).distill
    preset = presets.get(preset_name)
    torch.manual_seed(0)
    student, transformer = network(preset, config, device, dtype)
    vae = student.vae
    copies = tuple(pefts_own(copy.deepcopy(model)) for model in (transformer, transformer, vae))
    if dtype != torch.float32:
        for model, name in zip((*copies, copies[-1]), ("forward", "forward", "encode", "decode"), strict=True):
            setattr(model, name, torch.autocast(device.type, dtype)(getattr(model, name)))
    batch = random_batch(preset, config.batch_size, recipe["crop"], student, device)
    prompts = {
        name: Prompt(p.embeds.to(device), p.pooled.to(device))
        for name, p in ((label, random_prompt(preset, label)) for label in ("default", "null"))
    }
    perceptual = PerceptualLoss("alex", "random").to(device)
    ours = Ours(student, config, batch, prompts, perceptual)
    literal = Literal(copies, config, batch, prompts, perceptual, draws_of(config, batch))
    precomputed = with_trajectories(ours, config, batch, prompts, perceptual, folder)
    return ours, literal, precomputed


def network(preset: presets.Preset, config: Any, device: torch.device, dtype: torch.dtype) -> tuple[Student, Any]:
    """A student and a fake score on one base, with random adapters: B is not zero, so that everything takes part."""
    transformer = presets.build_transformer(preset, seed=0).to(device, dtype).requires_grad_(False).eval()
    vae = presets.build_vae(preset, seed=0).to(device, dtype).requires_grad_(False).eval()
    randomize_zeros(transformer)
    student = Student(vae, transformer, use_shift=False)
    lora = {"rank": config.lora.rank, "alpha": config.lora.alpha, "seed": 0}
    student.add_adapters(**lora, vae_rank=config.lora.vae_rank)
    adapters.add_adapter(transformer, adapters.FAKE_SCORE, targets=adapters.ATTENTION_TARGETS, **lora)
    for model, name in ((transformer, adapters.STUDENT), (transformer, adapters.FAKE_SCORE), (vae, adapters.STUDENT)):
        draw = seeding.generator(0, "benchmark", name)
        for key, parameter in adapters.parameters(model, name).items():
            if "lora_B" in key:
                parameter.data = (0.02 * torch.randn(parameter.shape, generator=draw)).to(parameter)
    return student, transformer


def randomize_zeros(model: nn.Module) -> None:
    """Layers that diffusers starts at zero would hide whatever feeds them."""
    draw = seeding.generator(0, "zeros")
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data = (0.02 * torch.randn(parameter.shape, generator=draw)).to(parameter)


def random_batch(preset: presets.Preset, rows: int, crop: int, student: Student, device: torch.device) -> Batch:
    draw = seeding.generator(0, "batch")
    prompt = random_prompt(preset, "caption", rows)
    hq = torch.rand(rows, 3, crop, crop, generator=draw) * 2 - 1
    lq = nn.functional.avg_pool2d(hq, 4)
    side = crop // student.codec.factor
    z = torch.randn(rows, student.vae.config.latent_channels, side, side, generator=draw)
    places = tuple(range(rows))
    batch = Batch(lq, hq, z, prompt.embeds, prompt.pooled, positions=places, names=tuple(map(str, places)))
    return batch.to(device)


def random_prompt(preset: presets.Preset, label: str, *rows: int) -> Prompt:
    draw, shape = seeding.generator(0, "prompt", label), preset.shape["transformer"]
    embeds = torch.randn(*rows, preset.prompt_tokens, shape["joint_attention_dim"], generator=draw)
    return Prompt(embeds, torch.randn(*rows, shape["pooled_projection_dim"], generator=draw))


class Ours:
    """The step as the training loop takes it."""

    def __init__(
        self,
        student: Student,
        config: Any,
        batch: Batch,
        prompts: dict[str, Prompt],
        perceptual: Any,
        trajectories: HQTrajectories | None = None,
    ) -> None:
        self.student, self.batch = student, batch
        self.distiller = Distiller(
            DistillationModel(student, prompts["default"]),
            student,
            null=prompts["null"],
            schedule=FlowSchedule(3.0),
            perceptual=perceptual,
            config=config,
            scale=4,
            seed=0,
            trajectories=trajectories,
        )
        self.phase = PhaseConfig(share=1.0, dasm=True, losses=LOSSES)
        self.optimizers = [
            optimizer(config, trained(student.transformer, student.vae, name))
            for name in (adapters.STUDENT, adapters.FAKE_SCORE)
        ]

    def student_turn(self) -> dict[str, Tensor]:
        output = self.distiller.student_turn(self.batch, self.phase)
        self.z_hat = output.z_hat
        return output.losses

    def fake_score_turn(self) -> Tensor:
        return self.distiller.fake_score_turn(self.batch, self.z_hat, update=0)


def with_trajectories(
    ours: Ours, config: Any, batch: Batch, prompts: dict[str, Prompt], perceptual: Any, folder: str
) -> Ours:
    tsd = config.tsd.model_copy(update={"trajectory_draws": DRAWS})
    config = config.model_copy(update={"tsd": tsd})
    trajectories = HQTrajectories(folder, "benchmark", DRAWS)
    made = Ours(ours.student, config, batch, prompts, perceptual, trajectories)

    def compute(name: str) -> Tensor:
        row = batch.names.index(name)
        caption = Prompt(batch.embeds[row], batch.pooled[row])
        return made.distiller.photograph_trajectories(name, batch.z[row], caption)

    trajectories.prepare(batch.names, compute)
    return made


class Literal:
    """The literal step on copies of the same networks."""

    def __init__(
        self,
        networks: tuple[Any, Any, Any],
        config: Any,
        batch: Batch,
        prompts: dict[str, Prompt],
        perceptual: Any,
        draws: Draws,
    ) -> None:
        self.generator, self.scorer, self.vae = networks
        self.batch, self.draws = batch, draws
        settings = settings_of(config, LOSSES)
        default, null = ((prompts[name].embeds, prompts[name].pooled) for name in ("default", "null"))
        self.step = LiteralStep(self.generator, self.scorer, self.vae, default, null, perceptual, settings)
        named = trained(self.generator, self.vae, adapters.STUDENT), trained(self.scorer, None, adapters.FAKE_SCORE)
        self.optimizers = [PlainOptimizer(config, group) for group in named]

    def student_turn(self) -> dict[str, Tensor]:
        batch = self.batch
        losses = self.step.student_turn(batch.lq, batch.hq, batch.z, (batch.embeds, batch.pooled), self.draws)
        self.z_hat = losses.pop("z_hat")
        return losses

    def fake_score_turn(self) -> Tensor:
        return self.step.fake_score_turn(self.z_hat, (self.batch.embeds, self.batch.pooled), self.draws)


def pefts_own(model: Any) -> Any:
    """Undo `composed.install`: LoRA layers as PEFT runs them."""
    back = {ours: theirs for theirs, ours in composed.COMPOSED.items()}
    for layer in model.modules():
        layer.__class__ = back.get(type(layer), type(layer))
    return model


def settings_of(config: Any, losses: dict[str, float]) -> Settings:
    """The literal version's name for each setting."""
    tsd, guidance = config.tsd, config.guidance_scale
    return Settings(
        lam=tsd.lam,
        dasm_steps=tsd.dasm.steps,
        dasm_step_size=tsd.dasm.step_size,
        dasm_weight=tsd.dasm.weight,
        teacher_scale=guidance.teacher,
        fake_scale=guidance.fake_score,
        loss_weights=losses,
    )


def draws_of(config: Any, batch: Batch) -> Draws:
    """The numbers that ours draws for these positions, drawn again."""
    tsd = [seeding.generator(0, "tsd", position) for position in batch.positions]
    fake = [seeding.generator(0, "fake_score", position, 0) for position in batch.positions]

    def uniform(generators: list[torch.Generator], low: float, high: float) -> Tensor:
        return torch.stack([torch.rand((), generator=g) for g in generators]).to(batch.z.device) * (high - low) + low

    t = uniform(tsd, *config.tsd.t_range)
    fake_t = uniform(fake, *config.fake_score.t_range)
    dropped = uniform(fake, 0.0, 1.0) < config.fake_score.caption_dropout
    return Draws(gaussian_like(batch.z, tsd), t, gaussian_like(batch.z, fake), fake_t, dropped)


def trained(transformer: Any, vae: Any, name: str) -> dict[str, nn.Parameter]:
    named = {f"transformer.{key}": p for key, p in adapters.parameters(transformer, name).items()}
    if vae is not None:
        named |= {f"vae.{key}": p for key, p in adapters.parameters(vae, name).items()}
    return named


def optimizer(config: Any, named: dict[str, nn.Parameter]) -> NetworkOptimizer:
    return NetworkOptimizer(named, 1e-6, 1000, config.optimizer, config.lr_schedule)


class PlainOptimizer:
    """AdamW and clipping as a script would write them."""

    def __init__(self, config: Any, named: dict[str, nn.Parameter]) -> None:
        self.named, self.config = named, config.optimizer
        self.adamw = torch.optim.AdamW(
            named.values(), lr=1e-6, betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay
        )

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        return nn.utils.clip_grad_norm_(self.named.values(), self.config.clip_norm)

    def step(self, step: int) -> None:
        self.adamw.step()


def whole_step(side: Any, number: int) -> None:
    """Both turns with their updates, as the loop takes them."""
    for turn, made in zip((side.student_turn, side.fake_score_turn), side.optimizers, strict=True):
        made.zero_grad()
        turn()
        made.clip()
        made.step(number)


def gradients(side: Any) -> dict[str, Tensor]:
    """After both turns without an update: every trainable's gradient."""
    for made in side.optimizers:
        made.zero_grad()
    losses = {**side.student_turn(), "fake_score": side.fake_score_turn()}
    found = {f"loss.{name}": value for name, value in losses.items()}
    for name, made in zip(("student", "fake_score"), side.optimizers, strict=True):
        found |= {f"{name}.{key}": p.grad.clone() for key, p in made.named.items()}
    return found
