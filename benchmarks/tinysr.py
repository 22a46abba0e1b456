"""Time of the compressed student and of its source student, in one run at equal settings.

    python benchmarks/tinysr.py [--quick] [--side 512]

From one upsampled image in memory to one restored image there, with random weights: the time does not depend on their
values. On a GPU all has Stable Diffusion 3's size, in float16. On a CPU the shapes are scaled: the transformer has
SD3's 24 blocks, prompt tokens and MLP, 128 wide instead of 1,536; the autoencoder SD3's resolutions and layers, a
quarter of its channels, and the compact one a quarter of TinySR's; float32, one thread, processor time.

The first table has the whole models: TSD-SR with its adapters merged, the same streamlined, and TinySR (12 blocks, no
text, compact autoencoder with a separable encoder). The second has the steps of the autoencoder, as TinySR's paper
(arXiv 2508.17434, V100, 512 px) prints them: 95.4 ms / 1,782 G, widths 22.8 / 147, no attention 11.2 / 132, separable
9.3 / 79; "widths" there is an AutoencoderKL of 64 channels, as here, and "no attention" the TAESD shape.

The last line is JSON; `ratio` is the factor against the plain student, as the paper's 5.68, and `ratio_streamlined` the
one against the streamlined student. The models are different networks, so that no outputs are compared: `equal` says
that all of them were timed on the same input, dtype and device.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.measuring import timed
from benchmarks.model_size import macs
from pipeline.tracking.provenance import git_commit, hardware
from tsdsr.compression.cut import cut, without_text
from tsdsr.inference.networks.fold import streamline
from tsdsr.models import presets
from tsdsr.models.codec import LatentCodec
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student

PRINTED = {"ratio": 5.68, "vae_ms": [95.4, 22.8, 11.2, 9.3]}
PLAIN, STREAMLINED, TINY = "TSD-SR, merged", "TSD-SR, streamlined", "TinySR"
CPU_HEADS, CPU_HEAD_DIM, CPU_SHRINK = 4, 32, 4
Runs = dict[str, Callable[[], object]]


def shapes(on_gpu: bool) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The transformer's and the autoencoder's configuration, and the compact one's width."""
    shape = presets.get("sd3-medium").shape
    transformer, vae = dict(shape["transformer"]), dict(shape["vae"])
    if on_gpu:
        return transformer, vae, 64
    transformer |= {"num_attention_heads": CPU_HEADS, "attention_head_dim": CPU_HEAD_DIM}
    transformer |= {"caption_projection_dim": CPU_HEADS * CPU_HEAD_DIM, "joint_attention_dim": 64}
    vae["block_out_channels"] = [width // CPU_SHRINK for width in vae["block_out_channels"]]
    vae["norm_num_groups"] //= CPU_SHRINK
    return transformer, vae, 64 // CPU_SHRINK


def models(side: int, device: str, dtype: torch.dtype) -> tuple[Runs, dict[str, int]]:
    """Each model as a function, and its number of parameters."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    transformer_shape, vae_shape, width = shapes(device == "cuda")
    with torch.device(device):
        whole = SD3Transformer2DModel(**transformer_shape).to(dtype).eval()
        vae = AutoencoderKL(**vae_shape).to(dtype).eval()
        compact = compact_vae(width, separable=True).to(dtype).eval()
        prompt = Prompt(
            torch.randn(presets.get("sd3-medium").prompt_tokens, transformer_shape["joint_attention_dim"], dtype=dtype),
            torch.randn(transformer_shape["pooled_projection_dim"], dtype=dtype),
        )
        image = torch.rand(1, 3, side, side, dtype=dtype) * 2 - 1
    plain = Student(vae, whole, use_shift=False)
    slim = streamline(copy.deepcopy(whole), prompt)
    blocks = range(0, len(whole.transformer_blocks), 2)
    tiny = streamline(cut(whole, list(blocks)), without_text(prompt))

    def one_step(codec: LatentCodec, velocity: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            z = codec.encode(image)
            return codec.decode(z - velocity(z.to(dtype)))

        return run

    runs: Runs = {
        PLAIN: lambda: plain.decode(plain.predict(plain.codec.encode(image), prompt)),
        STREAMLINED: one_step(plain.codec, slim),
        TINY: one_step(LatentCodec(compact, use_shift=False), tiny),
    }
    sizes = {PLAIN: (vae, whole), STREAMLINED: (vae, slim), TINY: (compact, tiny)}
    return runs, {name: sum(map(presets.count_parameters, networks)) for name, networks in sizes.items()}


def compact_vae(width: int, *, separable: bool) -> CompactVAE:
    return CompactVAE(block_out_channels=(width,) * 4, separable_encoder=separable)


def autoencoders(side: int, device: str, dtype: torch.dtype) -> tuple[Runs, dict[str, int]]:
    """The steps from the student's autoencoder to the compact one, with their numbers of parameters."""
    from diffusers import AutoencoderKL

    _, shape, width = shapes(device == "cuda")
    with torch.device(device):
        steps: dict[str, Any] = {
            "as in the student": AutoencoderKL(**shape),
            f"widths at most {width}": AutoencoderKL(**shape | {"block_out_channels": [width] * 4}),
            "no attention (TAESD's shape)": compact_vae(width, separable=False),
            "separable encoder": compact_vae(width, separable=True),
        }
        image = torch.rand(1, 3, side, side, dtype=dtype) * 2 - 1
    codecs = {name: LatentCodec(vae.to(dtype).eval(), use_shift=False) for name, vae in steps.items()}
    runs: Runs = {name: lambda codec=codec: codec.round_trip(image) for name, codec in codecs.items()}
    return runs, {name: presets.count_parameters(vae) for name, vae in steps.items()}


@torch.no_grad()
def measured(runs: Runs, parameters: dict[str, int], device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, measured in turn, multiply-adds without attention's products, and parameters."""
    for run in runs.values():
        run()
    rounds = [{name: timed(run, torch.device(device))[0] for name, run in runs.items()} for _ in range(repeats)]
    return {
        name: {
            "time_s": statistics.median(one[name] for one in rounds),
            "macs_g": round(macs(run)[1], 3),
            "params_m": round(parameters[name] / 1e6, 3),
        }
        for name, run in runs.items()
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    first = next(iter(rows.values()))["time_s"]
    print(f"{title}\n{'':32}{'seconds':>10}{'factor':>8}{'G multiply-adds':>17}{'M parameters':>14}")
    for name, row in rows.items():
        factor = first / row["time_s"]
        print(f"{name:32}{row['time_s']:10.4f}{factor:8.2f}{row['macs_g']:17,.2f}{row['params_m']:14,.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and at most 128 pixels")
    parser.add_argument("--side", type=int, default=512, help="pixels along a side of the restored image")
    options = parser.parse_args()
    side, repeats = (min(options.side, 128), 3) if options.quick else (options.side, 15)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_num_threads(1)
    whole = measured(*models(side, device, dtype), device, repeats)
    steps = measured(*autoencoders(side, device, dtype), device, repeats)
    scaled = "" if device == "cuda" else ", scaled shapes"
    show(f"{side}x{side}, {device}{scaled}, median of {repeats}", whole)
    show("the autoencoder, step by step", steps)
    times = {name: row["time_s"] for name, row in whole.items()}
    result = {
        "name": "tinysr",
        "baseline": times[PLAIN],
        "ours": times[TINY],
        "unit": "s",
        "ratio": round(times[PLAIN] / times[TINY], 3),
        "ratio_streamlined": round(times[STREAMLINED] / times[TINY], 3),
        "printed": PRINTED,
        "models": whole,
        "autoencoder": steps,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{hardware()['cpu']}, one thread",
        "shapes": "sd3-medium" if device == "cuda" else "scaled",
        "dtype": str(dtype).removeprefix("torch."),
        "side": side,
        "repeats": repeats,
        "commit": git_commit(),
        "equal": True,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
