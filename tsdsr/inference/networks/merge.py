"""Merge a LoRA adapter into its base weights, and remove the adapter."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def merge_adapter(model: nn.Module, name: str) -> None:
    """Merge adapter `name` into `model`'s weights and remove every adapter layer, which leaves a plain model.

    Args:
        model: a diffusers model with PEFT layers; it is changed.
        name: of the adapter to keep; others are dropped.
    """
    layers: list[tuple[str, Any]] = [(key, m) for key, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    with torch.no_grad():
        for key, layer in layers:
            if name in layer.lora_A:
                layer.merge(adapter_names=[name])
            parent, _, child = key.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model._hf_peft_config_loaded = False
