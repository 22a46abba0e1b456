"""Teacher presets: the shapes of an SD3-format teacher, by name. To add one: a JSON file in `shapes/` and a row here.

A shape is the configuration of every network of the teacher; a file may name another preset as its `base` and hold what
differs. The networks are built from it with random weights - to be trained (tiny), or on the meta device, where even
Stable Diffusion 3's take seconds (counts, tests, memory estimates) - and a teacher on disk is checked against it.

Source of `sd3-medium`: the architecture of Esser et al., arXiv 2403.03206, in the keys of diffusers' configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tsdsr import seeding
from tsdsr.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel


@dataclass(frozen=True)
class Preset:
    """A row of the registry."""

    name: str
    trained: bool  # whether the teacher stage trains it; otherwise `teacher.source` names its weights

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The configurations: transformer, vae, scheduler, text_encoder, text_encoder_2, text_encoder_3, max_tokens."""
        text = (files("tsdsr.models") / "shapes" / f"{self.name}.json").read_text(encoding="utf-8")
        shape: dict[str, Any] = json.loads(text)
        if "base" not in shape:
            return shape
        return {part: {**values, **shape.get(part, {})} for part, values in get(shape["base"]).shape.items()}

    @property
    def prompt_tokens(self) -> int:
        """L: CLIP's tokens, then T5's."""
        return int(self.shape["max_tokens"]["clip"] + self.shape["max_tokens"]["t5"])


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", trained=True),
        Preset("tiny-patch1", trained=True),
        Preset("nano", trained=True),
        Preset("sd3-medium", trained=False),
    )
}


def get(name: str) -> Preset:
    """The preset of this name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in PRESETS:
        raise UserError(f"teacher.preset: unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def build_transformer(preset: Preset, *, seed: int, device: str = "cpu") -> SD3Transformer2DModel:
    """An untrained transformer of the preset's shape; `device="meta"` allocates no memory."""
    from diffusers import SD3Transformer2DModel

    return _build(SD3Transformer2DModel, preset, "transformer", seed, device)


def build_vae(preset: Preset, *, seed: int, device: str = "cpu") -> AutoencoderKL:
    """An untrained autoencoder of the preset's shape."""
    from diffusers import AutoencoderKL

    return _build(AutoencoderKL, preset, "vae", seed, device)


def build_scheduler(preset: Preset) -> FlowMatchEulerDiscreteScheduler:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**preset.shape["scheduler"])


def _build(model: Any, preset: Preset, part: str, seed: int, device: str) -> Any:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seeding.derive(seed, "teacher", part))
        return model(**_tupled(preset.shape[part]))


def _tupled(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def mismatches(preset: Preset, part: str, config: Mapping[str, Any]) -> list[str]:
    """The differences of a component's configuration from the preset's, as `part.key is A, the preset has B`.

    Keys that the preset leaves out are not compared, nor those that its training determines, and an absent list equals
    an empty one.
    """
    determined = {"scaling_factor", "shift_factor"} if preset.trained else set()
    return [
        f"{part}.{key} is {config.get(key)!r}, the preset {preset.name} has {wanted!r}"
        for key, wanted in preset.shape[part].items()
        if key not in determined and _plain(config.get(key)) != _plain(wanted)
    ]


def _plain(value: Any) -> Any:
    return list(value or []) if isinstance(value, tuple | list) or value is None else value
