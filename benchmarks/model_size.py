"""Parameters, multiply-adds and time of the one-step student at 512x512: as trained, merged, streamlined.

    python benchmarks/model_size.py [--quick] [--side 512]

A model is what runs at inference: the VAE's encoder, the transformer, the VAE's decoder; text encoders are left out
(the prompt is fixed). "As trained" has LoRA as separate layers, "merged" has it added to the weights, "streamlined"
also has timestep and prompt folded into the weights.

Parameters and multiply-adds are counted for SD3-medium's shape on the meta device, so no weights are needed.
Multiply-adds are half the operations that torch's FlopCounterMode counts: matrix products, convolutions, attention.
TinySR's paper (arXiv 2508.17434, Table 1) prints 2,112 M parameters and 2,700 G multiply-adds for TSD-SR at this size,
1,782 G of them in the VAE. The counts agree once attention's own two products (queries with keys, weights with values)
are left out, which counters that hook modules do not see; a column without them stands beside the full count.

Time is measured where there is a GPU, for SD3-medium's shape with random weights in float16 (the time does not depend
on their values): one upsampled image in GPU memory to one restored image there. On every machine the tiny preset's
shape is timed too, under its own name, in float32 in one thread of the processor; there the three forms' pictures are
compared.
The last line is JSON; its baseline is the merged student, as TinySR's paper counts TSD-SR.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import timed
from pipeline.tracking.provenance import git_commit, hardware
from tsdsr.inference.networks.fold import streamline
from tsdsr.inference.networks.merge import merge_adapter
from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.models import adapters, presets, restoring
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student

PRINTED = {"params_m": 2112.0, "macs_g": 2700.0}
RANK = 64  # of both adapters, as the paper trains them
TINY_RANKS = {"rank": 64, "vae_rank": 16}  # as params.yaml trains them
RESTORING_STEPS = 15  # of TAD-SR's teacher
WARM_UP, REPEATS = 3, 20
TOLERANCE = 1e-4  # between pictures in [-1, 1]
NAMES = {
    "tsdsr_trained": "as trained (LoRA beside the weights)",
    "tsdsr": "merged",
    "tsdsr_streamlined": "streamlined",
    "restoring_teacher": "restoring teacher, in 15 steps",
}
COMPRESSED = {"tinysr": "TinySR: half of the blocks, compact VAE"}  # another network: counted here, timed in tinysr.py
Parts = dict[str, tuple[list[nn.Module], Callable[[], object]]]


def macs(run: Callable[[], object]) -> tuple[float, float]:
    """Multiply-adds in G, with and without attention's two products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    # the only batched products here; a fused kernel has a name of its own, on the meta device it is written out
    attention = sum(count for name, count in by_operation.items() if re.search("bmm|dot_product", str(name)))
    return counter.get_total_flops() / 2e9, (counter.get_total_flops() - attention) / 2e9


def empty_streamlined(
    preset: presets.Preset, *, blocks: int | None = None, tokens: int | None = None
) -> StreamlinedTransformer:
    """The transformer without time and prompt modules, on the meta device, with fewer blocks or tokens if given."""
    shape = preset.shape["transformer"]
    with torch.device("meta"):
        return StreamlinedTransformer(
            in_channels=shape["in_channels"],
            patch_size=shape["patch_size"],
            num_layers=shape["num_layers"] if blocks is None else blocks,
            num_heads=shape["num_attention_heads"],
            head_dim=shape["attention_head_dim"],
            context_length=preset.prompt_tokens if tokens is None else tokens,
            sample_size=shape["sample_size"],
            pos_embed_max_size=shape["pos_embed_max_size"],
        )


def random_prompt(preset: presets.Preset, device: str, dtype: torch.dtype = torch.float32) -> Prompt:
    """A random prompt of the preset's shape."""
    shape = preset.shape["transformer"]
    embeds = torch.randn(preset.prompt_tokens, shape["joint_attention_dim"], device=device, dtype=dtype)
    return Prompt(embeds, torch.randn(shape["pooled_projection_dim"], device=device, dtype=dtype))


def count(preset: presets.Preset, side: int, ranks: dict[str, int]) -> dict[str, dict[str, float]]:
    """Parts and models of this shape: params_m, macs_g, macs_without_attention_g.

    In float16, in which LoRA is two thin products beside each weight, as the paper runs it.
    """
    student = Student(
        presets.build_vae(preset, seed=0, device="meta").half(),
        presets.build_transformer(preset, seed=0, device="meta").half(),
        use_shift=False,
    )
    latent_side = side // student.codec.factor
    image = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16)
    latent = image.new_empty(1, student.transformer.config.in_channels, latent_side, latent_side)
    prompt, slim = random_prompt(preset, "meta"), empty_streamlined(preset).half()
    vae, transformer = student.vae, student.transformer
    cut = empty_streamlined(preset, blocks=transformer.config.num_layers // 2, tokens=0).half()
    with torch.device("meta"):
        compact = CompactVAE(latent_channels=latent.shape[1]).half()
    parts: Parts = {
        "encoder": ([vae.encoder, vae.quant_conv], lambda: vae.encode(image)),
        "decoder": ([vae.decoder, vae.post_quant_conv], lambda: vae.decode(latent)),
        "transformer": ([transformer], lambda: student.predict(latent, prompt)),
        "streamlined transformer": ([slim], lambda: slim(latent)),
        "cut transformer": ([cut], lambda: cut(latent)),
        "compact autoencoder": ([compact], lambda: compact.decode(compact.encode(image).latent_dist.mode())),
    }
    sizes = {name: _measure(*part) for name, part in parts.items()}
    transformer.requires_grad_(False)
    student.add_adapters(alpha=ranks["rank"], seed=0, trainable=False, **ranks)
    with adapters.active(vae, adapters.STUDENT), adapters.active(transformer, adapters.STUDENT):
        for name in ("encoder", "transformer"):
            sizes[f"{name} with LoRA"] = _measure(*parts[name])
    sizes["tsdsr_trained"] = _sum(sizes, "encoder with LoRA", "transformer with LoRA", "decoder")
    sizes["tsdsr"] = _sum(sizes, "encoder", "transformer", "decoder")
    sizes["tsdsr_streamlined"] = _sum(sizes, "encoder", "streamlined transformer", "decoder")
    sizes["tinysr"] = _sum(sizes, "cut transformer", "compact autoencoder")
    steps = _measure(*_restorer(preset, latent, prompt, ranks["rank"]))
    sizes["restoring_teacher"] = _sum(sizes, "encoder", "decoder") | {"steps": RESTORING_STEPS}
    sizes["restoring_teacher"]["params_m"] += steps.pop("params_m")
    for key, value in steps.items():
        sizes["restoring_teacher"][key] += RESTORING_STEPS * value
    return {name: {key: round(value, 3) for key, value in size.items()} for name, size in sizes.items()}


def _restorer(
    preset: presets.Preset, latent: Tensor, prompt: Prompt, rank: int
) -> tuple[list[nn.Module], Callable[[], object]]:
    """One step of the multi-step teacher, on the meta device."""
    transformer = presets.build_transformer(preset, seed=0, device="meta").half().requires_grad_(False)
    restoring.attach(transformer, rank=rank, seed=0, trainable=False)
    restorer = restoring.RestoringTeacher(transformer, prompt)
    return [transformer], lambda: restorer(latent, latent.new_empty(1), latent)


def _measure(modules: list[Any], run: Callable[[], object]) -> dict[str, float]:
    parameters = sum(presets.count_parameters(module) for module in modules if module is not None)
    products, plain = macs(run)
    return {"params_m": parameters / 1e6, "macs_g": products, "macs_without_attention_g": plain}


def _sum(sizes: dict[str, dict[str, float]], *names: str) -> dict[str, float]:
    return {key: sum(sizes[name][key] for name in names) for key in sizes[names[0]]}


def forms(
    preset: presets.Preset, side: int, ranks: dict[str, int], device: str, dtype: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """The forms of one student with random weights, each as a function from an upsampled image to the restored one."""
    vae = presets.build_vae(preset, seed=0, device=device).to(dtype).eval()
    transformer = presets.build_transformer(preset, seed=0, device=device).to(dtype).eval()
    trained = Student(vae, transformer, use_shift=False)
    transformer.requires_grad_(False)
    trained.add_adapters(alpha=ranks["rank"], seed=0, trainable=False, **ranks)
    torch.manual_seed(0)
    for network in (vae, transformer):
        for name, parameter in network.named_parameters():
            if "lora_B" in name:  # as zeros they would change nothing, and the comparison of the forms show nothing
                torch.nn.init.normal_(parameter, std=0.01)
    vae, transformer = copy.deepcopy(vae), copy.deepcopy(transformer)
    merge_adapter(vae, adapters.STUDENT)
    merge_adapter(transformer, adapters.STUDENT)
    merged = Student(vae, transformer, use_shift=False)
    prompt = random_prompt(preset, device, dtype)
    slim = streamline(copy.deepcopy(transformer), prompt)
    image = torch.rand(1, 3, side, side, device=device, dtype=dtype) * 2 - 1

    def streamlined() -> Tensor:
        latent = merged.codec.encode(image)
        return merged.decode(latent - slim(latent.to(dtype)))

    return {
        "tsdsr_trained": lambda: trained.decode(trained(image, prompt)),
        "tsdsr": lambda: merged.decode(merged.predict(merged.codec.encode(image), prompt)),
        "tsdsr_streamlined": streamlined,
    }


@torch.no_grad()
def measure(
    preset: presets.Preset,
    side: int,
    ranks: dict[str, int],
    device: str,
    dtype: torch.dtype,
    warm_up: int = WARM_UP,
    repeats: int = REPEATS,
) -> tuple[dict[str, float], float]:
    """Median seconds of each form, taken in turns, and the largest difference between the forms' pictures."""
    runs = forms(preset, side, ranks, device, dtype)
    for run in runs.values():
        for _ in range(warm_up):
            run()
    rounds = [{name: timed(run, torch.device(device))[0] for name, run in runs.items()} for _ in range(repeats)]
    pictures = [run().float() for run in runs.values()]
    seconds = {name: statistics.median(timed[name] for timed in rounds) for name in runs}
    return seconds, max(float((picture - pictures[0]).abs().max()) for picture in pictures)


def protocol(device: str, dtype: torch.dtype, side: int, warm_up: int, repeats: int) -> dict[str, Any]:
    """The timing protocol, for the table and the JSON line."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{hardware()['cpu']}, one thread, processor time"
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "input": f"one {side}x{side} image, in memory",
        "warm_up": warm_up,
        "repeats": repeats,
        "statistic": "median, the forms in turns",
        "torch": torch.__version__,
    }


def tiny_report(side: int, quick: bool) -> tuple[dict[str, Any], float]:
    """The tiny preset's shape on this machine's processor: sizes with times, and the forms' largest difference."""
    preset, device, dtype = presets.get("tiny"), "cpu", torch.float32
    warm_up, repeats = (1, 3) if quick else (WARM_UP, REPEATS)
    torch.set_num_threads(1)
    seconds, difference = measure(preset, side, TINY_RANKS, device, dtype, warm_up, repeats)
    models = with_seconds(count(preset, side, TINY_RANKS), seconds)
    return {"models": models, "timing": protocol(device, dtype, side, warm_up, repeats)}, difference


def with_seconds(sizes: dict[str, dict[str, float]], seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """The rows of the table, with their times where there are any."""
    return {
        name: {**sizes[name], **({"time_s": round(seconds[name], 5)} if name in seconds else {})}
        for name in NAMES | COMPRESSED
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"{title}\n{'':36}{'M parameters':>14}{'G multiply-adds':>17}{'without attention':>19}{'seconds':>10}")
    for name, row in rows.items():
        columns = row["params_m"], row["macs_g"], row["macs_without_attention_g"]
        seconds = f"{row['time_s']:10.4f}" if "time_s" in row else f"{'-':>10}"
        print("{:36}{:14,.2f}{:17,.1f}{:19,.1f}".format((NAMES | COMPRESSED).get(name, name), *columns) + seconds)


def main() -> None:
    """Count, measure where the hardware allows it, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats; counting takes seconds anyway")
    parser.add_argument("--side", type=int, default=512, help="pixels along a side of the restored image")
    options = parser.parse_args()
    preset, ranks = presets.get("sd3-medium"), {"rank": RANK, "vae_rank": RANK}
    sizes = count(preset, options.side, ranks)
    timing: dict[str, Any] = {"not_timed": "SD3-medium's shape is timed on a GPU; there was none"}
    seconds: dict[str, float] = {}
    if torch.cuda.is_available():
        seconds, _ = measure(preset, options.side, ranks, "cuda", torch.float16)
        timing = protocol("cuda", torch.float16, options.side, WARM_UP, REPEATS)
    models = with_seconds(sizes, seconds)
    tiny, difference = tiny_report(options.side, options.quick)

    show(f"SD3-medium's shape, {options.side}x{options.side}; counted on the meta device", {**sizes, **models})
    print(f"{'TSD-SR as TinySR prints it':36}{PRINTED['params_m']:14,.2f}{'':17}{PRINTED['macs_g']:19,.1f}")
    print(f"time: {_line(timing)}\n")
    show(f"the tiny preset's shape, {options.side}x{options.side}: not comparable with the above", tiny["models"])
    print(f"time: {_line(tiny['timing'])}")
    print(f"largest difference between the three forms' pictures: {difference:.1e} (tolerance {TOLERANCE:g})")
    baseline, ours = models["tsdsr"], models["tsdsr_streamlined"]
    result = {
        "name": "model_size",
        "models": models,
        "timing": timing,
        "tiny": tiny,
        "side": options.side,
        "commit": git_commit(),
        "printed": PRINTED,
        "baseline": baseline["params_m"],
        "ours": ours["params_m"],
        "unit": "M parameters",
        "ratio": round(baseline["params_m"] / ours["params_m"], 4),
        "macs_ratio": round(baseline["macs_g"] / ours["macs_g"], 4),
        "device": "meta",
        "equal": difference <= TOLERANCE,
        "largest_difference": difference,
    }
    print(json.dumps(result))


def _line(timing: dict[str, Any]) -> str:
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in timing.items())


if __name__ == "__main__":
    main()
