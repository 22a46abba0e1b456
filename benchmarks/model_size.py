"""Parameters and multiply-adds of the one-step student at 512x512, SD3-medium's shape, counted on the meta device.

    python benchmarks/model_size.py [--quick] [--side 512]

A model is what runs at inference: the VAE's encoder, the transformer, the VAE's decoder, adapters merged, text encoders
left out (the prompt is fixed). Multiply-adds are half the operations that torch's FlopCounterMode counts: matrix
products, convolutions and attention. The last line is JSON; its baseline is the student as TSD-SR runs it.

TinySR's paper (arXiv 2508.17434, Table 1) prints 2,112 M parameters and 2,700 G multiply-adds for TSD-SR at this size,
1,782 G of them in the VAE. The counts agree once attention's own two products (queries with keys, weights with values)
are left out, which counters that hook modules do not see; a column without them stands beside the full count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from tsdsr.inference.streamlined import StreamlinedTransformer
from tsdsr.models import presets

PRINTED = {"params_m": 2112.0, "macs_g": 2700.0}


def macs(run: Callable[[], object]) -> tuple[float, float]:
    """Multiply-adds in G: all, and without attention's two products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    # the only batched products here; a fused kernel has a name of its own, on the meta device it is written out
    attention = sum(count for name, count in by_operation.items() if re.search("bmm|dot_product", str(name)))
    return counter.get_total_flops() / 2e9, (counter.get_total_flops() - attention) / 2e9


def millions(*models: Any) -> float:
    return sum(presets.count_parameters(model) for model in models) / 1e6


def streamlined(preset: presets.Preset) -> StreamlinedTransformer:
    """The transformer without time and prompt modules."""
    shape = preset.shape["transformer"]
    with torch.device("meta"):
        return StreamlinedTransformer(
            in_channels=shape["in_channels"],
            patch_size=shape["patch_size"],
            num_layers=shape["num_layers"],
            num_heads=shape["num_attention_heads"],
            head_dim=shape["attention_head_dim"],
            context_length=preset.prompt_tokens,
            sample_size=shape["sample_size"],
            pos_embed_max_size=shape["pos_embed_max_size"],
        )


def count(side: int) -> dict[str, dict[str, float]]:
    """Parts and models: params_m, macs_g, macs_without_attention_g."""
    preset = presets.get("sd3-medium")
    transformer = presets.build_transformer(preset, seed=0, device="meta")
    vae = presets.build_vae(preset, seed=0, device="meta")
    slim = streamlined(preset)
    config, latent_side = transformer.config, side // 8
    image = torch.empty(1, 3, side, side, device="meta")
    latent = torch.empty(1, config.in_channels, latent_side, latent_side, device="meta")
    inputs = {
        "hidden_states": latent,
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, preset.prompt_tokens, config.joint_attention_dim, device="meta"),
        "pooled_projections": torch.empty(1, config.pooled_projection_dim, device="meta"),
    }
    parts = {
        "encoder": (millions(vae.encoder), *macs(lambda: vae.encode(image))),
        "decoder": (millions(vae.decoder), *macs(lambda: vae.decode(latent))),
        "transformer": (millions(transformer), *macs(lambda: transformer(**inputs))),
        "streamlined transformer": (millions(slim), *macs(lambda: slim(latent))),
    }

    def together(*names: str) -> dict[str, float]:
        params, products, plain = (sum(parts[name][column] for name in names) for column in range(3))
        sizes = {"params_m": params, "macs_g": products, "macs_without_attention_g": plain}
        return {name: round(value, 2) for name, value in sizes.items()}

    found = {name: together(name) for name in parts}
    found["tsdsr"] = together("encoder", "transformer", "decoder")
    found["tsdsr_streamlined"] = together("encoder", "streamlined transformer", "decoder")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="changes nothing: counting takes seconds")
    parser.add_argument("--side", type=int, default=512, help="pixels along a side of the restored image")
    side = parser.parse_args().side
    found = count(side)
    print(f"SD3-medium's shape, {side}x{side}, meta device")
    print(f"{'':26}{'M parameters':>14}{'G multiply-adds':>17}{'without attention':>19}")
    for name, row in found.items():
        columns = row["params_m"], row["macs_g"], row["macs_without_attention_g"]
        print("{:26}{:14,.2f}{:17,.1f}{:19,.1f}".format(name, *columns))
    print(f"{'TSD-SR as TinySR prints it':26}{PRINTED['params_m']:14,.2f}{'':17}{PRINTED['macs_g']:19,.1f}")
    models = {name: found[name] for name in ("tsdsr", "tsdsr_streamlined")}
    baseline, ours = models["tsdsr"], models["tsdsr_streamlined"]
    result = {
        "name": "model_size",
        "models": models,
        "printed": PRINTED,
        "baseline": baseline["params_m"],
        "ours": ours["params_m"],
        "unit": "M parameters",
        "ratio": round(baseline["params_m"] / ours["params_m"], 4),
        "macs_ratio": round(baseline["macs_g"] / ours["macs_g"], 4),
        "device": "meta",
        "equal": True,
        "equality": "the streamlined student equals the student to rounding: tests/tsdsr/inference",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
