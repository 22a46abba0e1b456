"""Peak memory of one training step by option, of ours and of the literal version, counted on the meta device.

    python benchmarks/memory.py [--quick] [--preset sd3-medium|tiny]

Counted: every tensor alive at the peak of a step - both turns, gradients and AdamW's moments there from the step
before - for one photograph of 512 px in bfloat16 at SD3-medium's shape, without weights; attention as the fused kernels
keep it. Where there is a GPU the same step runs on it with random weights and CUDA's own count stands beside; for the
tiny preset torch's profiler on the CPU. Kernels' workspaces are measured, not counted.

The baseline is `tests/reference/algorithm1.py`: two copies of the transformer, every prediction a call of its own,
PEFT's own layers, nothing recomputed. That every option leaves the gradients as they are is verified before (tiny
preset, float32, relative 1e-4). The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import yaml  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402

from benchmarks import step_sides  # noqa: E402
from benchmarks.measuring import TOLERANCE  # noqa: E402
from benchmarks.step_sides import Literal  # noqa: E402
from pipeline.tracking.provenance import git_commit, hardware  # noqa: E402
from tests.reference.measuring import compare, peak_memory  # noqa: E402
from tests.reference.sides import draws_of, pefts_own  # noqa: E402
from tsdsr.config import Params  # noqa: E402
from tsdsr.live_memory import fused_attention  # noqa: E402
from tsdsr.models import adapters, presets  # noqa: E402
from tsdsr.models.codec import LatentCodec  # noqa: E402
from tsdsr.models.quiet import quiet  # noqa: E402
from tsdsr.training.memory import StepMemoryProbe, hungriest  # noqa: E402

GIB = 2**30
SAVING = {"gradient_checkpointing": True, "vae_slice": 1}
PRECISION = {"sd3-medium": "bfloat16", "tiny": "float32"}
BATCH = {"sd3-medium": 1, "tiny": 4}
ATTENTION = {  # the operators that stand for attention on the meta device
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}
Options = dict[str, Any]
# Label, whether it is the literal version, options.
ROWS: list[tuple[str, bool, Options]] = [
    ("literal", True, {}),
    ("literal, gradient_checkpointing", True, {"gradient_checkpointing": True}),
    ("ours", False, {}),
    ("low_memory", False, {"low_memory": True}),
    ("vae_slice 1", False, {"vae_slice": 1}),
    ("gradient_checkpointing", False, {"gradient_checkpointing": True}),
    ("gradient_checkpointing, vae_slice 1", False, SAVING),
    ("all three", False, {**SAVING, "low_memory": True}),
]
OURS = "gradient_checkpointing, vae_slice 1"
QUICK = ("literal", "ours", OURS)
BATCHES = (1, 2, 4, 8, 16)  # photographs of a micro-batch, with and without recomputing the transformer


def params_of(preset: str, options: Options) -> Params:
    """The recipe of params.yaml, every loss on."""
    params = Params.load(ROOT / "params.yaml")
    if preset == "sd3-medium":
        params = params.overlay(yaml.safe_load((ROOT / "params/sd3-medium.yaml").read_text(encoding="utf-8")))
    fixed: Options = {
        "batch_size": BATCH[preset],
        "accumulation": 1,
        "num_workers": 1,
        "precision": PRECISION[preset],
        "gradient_checkpointing": False,
        "low_memory": False,
        "vae_slice": None,
        "lora": {"rank": 64, "alpha": 64, "vae_rank": 64, "fake_score_rank": 64},
        "phases": {"all": {"losses": {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}}},
    }
    return params.overlay({"distill": fixed}).overlay({"distill": options})


class LiteralProbe(StepMemoryProbe):
    """The literal step, in place of ours."""

    def __init__(self, params: Params, device: torch.device) -> None:
        super().__init__(params, device)
        generator = self._transformer(adapters.STUDENT, adapters.STUDENT_TARGETS)
        scorer = self._transformer(adapters.FAKE_SCORE, adapters.ATTENTION_TARGETS)
        vae = pefts_own(self.vae)
        self.models = (generator, scorer, vae)
        if params.distill.precision != "float32":  # as autocast would
            for network in (generator, scorer, vae.encoder, vae.decoder):
                network.register_forward_pre_hook(_cast, with_kwargs=True)
                for layer in network.modules():
                    if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.dtype == torch.float32:  # an adapter's
                        layer.forward = partial(_cast_product, layer)
        if params.distill.gradient_checkpointing:
            for network in (generator, scorer):
                network.enable_gradient_checkpointing()
        batch = self.batches[0]
        self.literal = Literal(self.models, self.method.inputs, batch, draws_of(params.distill, batch))
        self.optimizers = list(self.literal.optimizers.values())
        self.trained = [p for made in self.optimizers for p in made.named.values()]
        del self.method, self.stepper, self.transformer

    def _transformer(self, name: str, targets: tuple[str, ...]) -> Any:
        lora = self.params.distill.lora
        with quiet(), torch.device(self.device):
            model = presets.build_transformer(self.preset, seed=0, device=self.device.type)
            model = model.to(getattr(torch, self.params.distill.precision)).eval().requires_grad_(False)
            adapters.add_adapter(model, name, rank=lora.rank, alpha=lora.alpha, targets=targets, seed=0)
        return pefts_own(model)

    def step(self, phase: Any) -> None:
        self.literal.whole_step(0)

    def networks(self) -> tuple[nn.Module, ...]:
        return self.models


def _cast(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(value: Any, name: str = "") -> Any:
        wanted = isinstance(value, Tensor) and value.is_floating_point() and name != "timestep"
        return value.to(torch.bfloat16) if wanted else value

    return tuple(cast(value) for value in args), {name: cast(value, name) for name, value in kwargs.items()}


def _cast_product(layer: Any, x: Tensor) -> Tensor:
    x, weight = x.bfloat16(), layer.weight.bfloat16()
    return nn.functional.linear(x, weight) if weight.ndim == 2 else layer._conv_forward(x, weight, None)


def counted(params: Params, literal: bool) -> int:
    probe = (LiteralProbe if literal else StepMemoryProbe)(params, torch.device("meta"))
    return probe.peak(hungriest(params)[-1])


def operations(params: Params, literal: bool) -> int:
    """Floating-point operations of a step; counted apart from the peak, since the counter keeps tensors alive."""
    probe = (LiteralProbe if literal else StepMemoryProbe)(params, torch.device("meta"))
    with fused_attention(), FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        probe.step(hungriest(params)[-1])
    return counter.get_total_flops()


def measured(params: Params, literal: bool, device: torch.device) -> int:
    """The same step, executed: CUDA's count, or on a CPU the memory before it plus the profiler's peak."""
    probe = (LiteralProbe if literal else StepMemoryProbe)(params, device)
    gc.collect()
    phase = hungriest(params)[-1]
    probe.step(phase)  # warms up, and leaves gradients and moments
    if device.type == "cuda":
        return torch.cuda.memory_allocated() + peak_memory(lambda: probe.step(phase), device)
    for made in probe.optimizers:
        made.zero_grad()  # the profiler does not see what goes that was there before it
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in probe.tensors()}
    return sum(storages.values()) + peak_memory(lambda: probe.step(phase), device)


def verified() -> float:
    """The largest relative difference of any loss or gradient, of every option against the literal version."""
    with tempfile.TemporaryDirectory() as folder:
        ours, literal, *_ = step_sides.build("tiny", torch.device("cpu"), folder)
    wanted = literal.gradients()
    worst = 0.0
    for _, is_literal, options in ROWS:
        if is_literal:
            continue
        method = ours.method
        student = method.student
        for network in (student.transformer, student.vae):
            if options.get("gradient_checkpointing"):
                network.enable_gradient_checkpointing()
            else:
                network.disable_gradient_checkpointing()
        student.codec = LatentCodec(student.vae, student.codec.use_shift, options.get("vae_slice"))
        config = method.inputs.config.model_copy(update={"low_memory": options.get("low_memory", False)})
        method.inputs = replace(method.inputs, config=config)
        worst = max(worst, compare(ours.gradients(), wanted)[0])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rows, without operations and the table of batches")
    parser.add_argument("--preset", choices=BATCH, default="sd3-medium")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measures = device.type == "cuda" or options.preset == "tiny"
    difference = verified()
    print(f"every option's losses and gradients against the literal version's: {difference:.1e} apart at most\n")

    rows = {}
    print(f"{options.preset}, {BATCH[options.preset]} a micro-batch, {PRECISION[options.preset]}")
    print(f"{'':38}{'GiB':>8}{'of literal':>12}{'measured':>10}{'TFLOP':>9}")
    for label, literal, chosen in ROWS:
        if options.quick and label not in QUICK:
            continue
        params = params_of(options.preset, chosen)
        row = {"counted_gib": counted(params, literal) / GIB}
        if not options.quick:
            row["tflop"] = operations(params, literal) / 1e12
        if measures:
            row["measured_gib"] = measured(params, literal, device) / GIB
            gc.collect()
        rows[label] = row
        share = row["counted_gib"] / rows["literal"]["counted_gib"]
        beside = f"{row['measured_gib']:10.3f}" if measures else f"{'-':>10}"
        done = f"{row['tflop']:9.3f}" if "tflop" in row else f"{'-':>9}"
        print(f"{label:38}{row['counted_gib']:8.3f}{share:12.2f}{beside}{done}", flush=True)
    batches = {} if options.quick else by_batch(options.preset)
    key = "measured_gib" if measures else "counted_gib"
    baseline, ours = rows["literal"][key], rows[OURS][key]
    result = {
        "name": "memory",
        "preset": options.preset,
        "baseline": round(baseline, 3),
        "ours": round(ours, 3),
        "options": OURS,
        "unit": f"GiB at the peak of a step, {'measured' if measures else 'counted on the meta device'}",
        "ratio": round(baseline / ours, 3),
        "rows": {label: {name: round(value, 3) for name, value in row.items()} for label, row in rows.items()},
        "by_batch": batches,
        "device": hardware() if measures else "meta",
        "commit": git_commit(),
        "largest_difference": difference,
        "equal": difference < TOLERANCE,
    }
    print(json.dumps(result))


def by_batch(preset: str) -> dict[str, dict[str, float]]:
    """GiB by photographs per micro-batch: recomputing the VAE alone, and the transformer as well."""
    print(f"\n{'photographs a micro-batch':38}" + "".join(f"{rows:8d}" for rows in BATCHES))
    table = {}
    for label in ("vae_slice 1", "gradient_checkpointing", OURS):
        options = next(options for name, _, options in ROWS if name == label)
        sizes = ({**options, "batch_size": rows, "tsd": {"dasm": {"steps": 1}}} for rows in BATCHES)  # as hungry as 3
        peaks = {size["batch_size"]: counted(params_of(preset, size), False) / GIB for size in sizes}
        print(f"{label:38}" + "".join(f"{peak:8.2f}" for peak in peaks.values()), flush=True)
        table[label] = {str(rows): round(peak, 3) for rows, peak in peaks.items()}
    return table


if __name__ == "__main__":
    main()
