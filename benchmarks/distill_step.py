"""One training step: ours against the literal version of Algorithm 1, on the same weights, batch and noise.

    python benchmarks/distill_step.py [--quick] [--profile] [--preset tiny|sd3-medium] [--threads N]
                                      [--precision float32|bfloat16]

Checks that every loss and every gradient agree (relative 1e-4 in float32), then times whole steps - both turns,
clipping and AdamW - alternating the two, and apart from them ours with psi on the photographs' trajectories computed
beforehand (`distill.tsd.trajectory_draws`). The last line is JSON. On a CPU the time is the process's own CPU time at
one thread, which neighbours on the machine disturb least; wall time stands beside it. On a GPU steps are timed in
bfloat16, in which people train there: frozen weights in bfloat16, adapters in float32, the literal version's networks
under autocast.

SD3-medium's shape needs a GPU (80 GB for the check in float32); its weights are random.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tests.reference.algorithm1 import Draws, LiteralStep, Settings  # noqa: E402
from tsdsr import seeding  # noqa: E402
from tsdsr.config import Params, PhaseConfig  # noqa: E402
from tsdsr.data.dataset import Batch  # noqa: E402
from tsdsr.flow import FlowSchedule, gaussian_like  # noqa: E402
from tsdsr.losses.reconstruction import PerceptualLoss  # noqa: E402
from tsdsr.models import adapters, composed, presets  # noqa: E402
from tsdsr.models.prompt import Prompt  # noqa: E402
from tsdsr.models.student import Student  # noqa: E402
from tsdsr.training.optim import NetworkOptimizer  # noqa: E402
from tsdsr.training.step import DistillationModel, Distiller  # noqa: E402
from tsdsr.training.trajectories import HQTrajectories  # noqa: E402

TOLERANCE = 1e-4
RECIPES: dict[str, dict[str, Any]] = {  # distill.* of the late phase, where DASM runs
    "tiny": {"batch_size": 4, "crop": 128, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
    "sd3-medium": {"batch_size": 1, "crop": 512, "lora": {"rank": 64, "alpha": 64, "vae_rank": 64}},
}
PRECOMPUTED = "precomputed"
DRAWS = 2  # noises a photograph
LOSSES = {"lpips": 1.0, "tsd": 2.0, "latent_mse": 1.0}


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
        self.optimizers = [plain_optimizer(config, group) for group in named]

    def student_turn(self) -> dict[str, Tensor]:
        batch = self.batch
        losses = self.step.student_turn(batch.lq, batch.hq, batch.z, (batch.embeds, batch.pooled), self.draws)
        self.z_hat = losses.pop("z_hat")
        return losses

    def fake_score_turn(self) -> Tensor:
        return self.step.fake_score_turn(self.z_hat, (self.batch.embeds, self.batch.pooled), self.draws)


def trained(transformer: Any, vae: Any, name: str) -> dict[str, nn.Parameter]:
    named = {f"transformer.{key}": p for key, p in adapters.parameters(transformer, name).items()}
    if vae is not None:
        named |= {f"vae.{key}": p for key, p in adapters.parameters(vae, name).items()}
    return named


def optimizer(config: Any, named: dict[str, nn.Parameter]) -> NetworkOptimizer:
    return NetworkOptimizer(named, 1e-6, 1000, config.optimizer, config.lr_schedule)


class plain_optimizer:
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


def compare(ours: dict[str, Tensor], literal: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference, and where; a gradient of mere rounding is held against the others."""
    assert ours.keys() == literal.keys(), sorted(ours.keys() ^ literal.keys())[:5]
    floor = 1e-6 * max(float(value.norm()) for name, value in literal.items() if not name.startswith("loss."))
    apart = {
        name: float((ours[name] - value).norm()) / max(float(value.norm()), floor) for name, value in literal.items()
    }
    worst = max(apart, key=apart.__getitem__)
    return apart[worst], worst


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a large product: what the machine can do at most."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    times = [timed(lambda: a @ b, device)[0] for _ in range(7)]
    return 2 * side**3 / min(times)


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(seconds, wall seconds): CPU time of the process on a CPU, wall time on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return (cpu_s if device.type == "cpu" else wall_s), wall_s


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak beyond what is there before, by CUDA's own count or the CPU profiler's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


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


def pefts_own(model: Any) -> Any:
    """Undo `composed.install`: LoRA layers as PEFT runs them."""
    back = {ours: theirs for theirs, ours in composed.COMPOSED.items()}
    for layer in model.modules():
        layer.__class__ = back.get(type(layer), type(layer))
    return model


def profile(side: Any, label: str, device: torch.device) -> None:
    with torch.profiler.profile() as profiled:  # of the CPU, and of a GPU where there is one
        whole_step(side, 0)
    print(f"\n{label}: where the time goes")
    key = f"self_{device.type}_time_total"
    print(profiled.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--profile", action="store_true", help="print the costliest operations of both")
    parser.add_argument("--preset", choices=RECIPES, default="sd3-medium" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
        help="of the frozen weights in the steps that are timed",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions, of ten bits; too few for the check
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        sides = build(options.preset, device, folder)
        difference = check(*sides[:2])
        if options.precision != "float32":
            del sides  # its memory
            sides = build(options.preset, device, f"{folder}/{options.precision}", getattr(torch, options.precision))
        measure(options, device, difference, *sides)


def check(ours: Ours, literal: Literal) -> float:
    found = gradients(ours)
    difference, where = compare(found, gradients(literal))
    print(f"largest relative difference of {len(found)} losses and gradients: {difference:.2e} ({where})")
    return difference


def measure(
    options: argparse.Namespace,
    device: torch.device,
    difference: float,
    ours: Ours,
    literal: Literal,
    precomputed: Ours,
) -> None:
    sides = {"literal": literal, "ours": ours, PRECOMPUTED: precomputed}
    repeats = 3 if options.quick else 9
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    flops, memory = {}, {}
    for name, side in sides.items():
        with FlopCounterMode(display=False) as counter:
            whole_step(side, 0)
        flops[name] = counter.get_total_flops()
        memory[name] = peak_memory(lambda side=side: whole_step(side, 0), device)
    for repeat in range(repeats):
        for name, side in sides.items():
            seconds, wall_seconds = timed(lambda side=side, repeat=repeat: whole_step(side, repeat), device)
            cpu[name].append(seconds)
            wall[name].append(wall_seconds)
    if options.profile:
        for name, side in sides.items():
            profile(side, name, device)
    report(sides, cpu, wall, flops, memory, matmul_peak(device, options.precision), device, options, difference)


def report(
    sides: dict[str, Any],
    cpu: dict[str, list[float]],
    wall: dict[str, list[float]],
    flops: dict[str, int],
    memory: dict[str, int],
    peak: float,
    device: torch.device,
    options: argparse.Namespace,
    difference: float,
) -> None:
    name_of = torch.cuda.get_device_name() if device.type == "cuda" else (platform.processor() or platform.machine())
    best = {name: median(cpu[name]) for name in sides}
    print(f"\n{options.preset}, {options.precision}, {name_of}, {options.threads} thread(s)")
    print(f"matmul peak {peak / 1e9:.1f} GFLOP/s")
    print(f"{'':14}{'ms':>10}{'wall ms':>10}{'GFLOP':>10}{'of peak':>10}{'peak MiB':>10}")
    for name in sides:
        row = best[name] * 1e3, median(wall[name]) * 1e3, flops[name] / 1e9, flops[name] / best[name] / peak
        print(f"{name:14}{row[0]:10.1f}{row[1]:10.1f}{row[2]:10.2f}{row[3]:10.1%}{memory[name] / 2**20:10.1f}")
    result = {
        "name": "distill_step",
        "preset": options.preset,
        "precision": options.precision,
        "baseline": best["literal"] * 1e3,
        "ours": best["ours"] * 1e3,
        "unit": "ms of CPU time a step" if device.type == "cpu" else "ms a step",
        "ratio": round(best["literal"] / best["ours"], 3),
        "precomputed_trajectories": {
            "ours": best[PRECOMPUTED] * 1e3,
            "ratio": round(best["literal"] / best[PRECOMPUTED], 3),
            "ratio_to_ours": round(best["ours"] / best[PRECOMPUTED], 3),
        },
        "memory_ratio": round(memory["literal"] / memory["ours"], 3),
        "flops": flops,
        "share_of_matmul_peak": round(flops["ours"] / best["ours"] / peak, 3),
        "device": name_of,
        "threads": options.threads,
        "largest_difference": difference,
        "equal": difference < TOLERANCE,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
