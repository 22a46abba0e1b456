"""LoRA adapters on one frozen base: their target modules, and how they are activated, saved and loaded.

The student, the fake score phi and (optionally) the teacher's own fine-tuning are named adapters of one transformer, so
one copy of its weights serves them all. File layout of released weights: safetensors, keys
`transformer.<module>.lora_A.weight` and `.lora_B.weight`, with the prefix `transformer.` also in the VAE's file.

Source: TSD-SR's released code (targets, rank, layout); Hu et al., arXiv 2106.09685 (LoRA).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.files import atomic_file
from tsdsr.models import composed

STUDENT = "student"
FAKE_SCORE = "fake_score"
TEACHER = "teacher"

ATTENTION_TARGETS = ("to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
STUDENT_TARGETS = (*ATTENTION_TARGETS, "proj", "linear", "proj_out")
# Every convolution and attention projection of the encoder, and quant_conv where the VAE has one. A regular expression:
# PEFT matches it against whole module names.
VAE_ENCODER_TARGETS = (
    r"(encoder\..*\.(conv1|conv2|conv_shortcut|conv|to_q|to_k|to_v|to_out\.0)|encoder\.(conv_in|conv_out)|quant_conv)"
)

PREFIX = "transformer."


def add_adapter(
    model: Any, name: str, *, rank: int, alpha: float, targets: Sequence[str] | str, seed: int, trainable: bool = True
) -> None:
    """Add a LoRA adapter to a diffusers model, Gaussian A and zero B, in float32 whatever the base's dtype.

    Afterwards no adapter is active: a forward is the frozen base's unless it runs inside `active`.

    Args:
        model: an `SD3Transformer2DModel` or `AutoencoderKL`, its own parameters frozen.
        targets: module-name endings, or one regular expression on whole module names.
        seed: A is drawn from (seed, name) without using the global random state.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        init_lora_weights="gaussian",
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(seed, "lora", name))
        model.add_adapter(config, name)
    for parameter in before:  # diffusers leaves only the newest adapter trainable
        parameter.requires_grad_(True)
    for parameter in parameters(model, name).values():
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(trainable)
    for layer in _walk(model):
        layer._active_adapter = []
        composed.install(layer)


def parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters by module path, `<module>.lora_A.weight` and `.lora_B.weight`, in the model's order."""
    infix = f".{name}.weight"
    return {
        key.removesuffix(infix) + ".weight": parameter
        for key, parameter in model.named_parameters()
        if key.endswith((f"lora_A{infix}", f"lora_B{infix}"))
    }


def has_adapter(model: nn.Module, name: str) -> bool:
    return any(name in layer.lora_A for layer in _lora_layers(model))


@contextmanager
def active(model: nn.Module, *names: str) -> Iterator[None]:
    """Within the block the sum of these adapters is added in `model`'s forward; without names only the frozen base
    runs.

    Afterwards the former adapters are active again, which gradient checkpointing needs, since it repeats the forward
    during backward. PEFT's `set_adapter` also changes `requires_grad`, which must not change after DDP wrapped the
    model, so the layers' list of active adapters is set directly.
    """
    layers = _lora_layers(model)
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = list(names)
    try:
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer._active_adapter = previous


def state_dict(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The adapter in the released layout, on the CPU."""
    state = get_peft_model_state_dict(model, adapter_name=name)
    return {PREFIX + key: value.detach().cpu().contiguous() for key, value in state.items()}


def save(model: nn.Module, name: str, path: str | Path) -> None:
    """Write the adapter in the released layout, completely or not at all."""
    with atomic_file(path) as aside:
        save_file(state_dict(model, name), aside)


def load(model: nn.Module, name: str, path: str | Path) -> None:
    """Load a file in the released layout into the existing adapter `name`.

    Raises:
        UserError: keys are missing, unknown or of another shape, or the file is damaged.
    """
    load_state(model, name, read_weights(path), origin=str(path))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; a missing or damaged one is a UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises several types for a damaged file
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def load_state(model: nn.Module, name: str, state: dict[str, Tensor], origin: str) -> None:
    """Copy `state` (released layout) into the adapter; every key must match exactly."""
    wanted = parameters(model, name)
    found = {key.removeprefix(PREFIX): value for key, value in state.items()}
    problems = [f"missing {PREFIX}{key}" for key in wanted if key not in found]
    problems += [f"unknown {PREFIX}{key}" for key in found if key not in wanted]
    problems += [
        f"{PREFIX}{key} has shape {list(value.shape)}, the model needs {list(wanted[key].shape)}"
        for key, value in found.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{origin}: does not fit this model's adapter: {'; '.join(problems[:5])}{more}")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(found[key])


def rank_of(state: dict[str, Tensor], origin: str) -> int:
    """The common rank of all lora_A in a file of the released layout."""
    ranks = {value.shape[0] for key, value in state.items() if re.search(r"lora_A\.weight$", key)}
    if len(ranks) != 1:
        raise UserError(f"{origin}: expected lora_A weights of one rank, found ranks {sorted(ranks)}")
    return ranks.pop()


def base_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the frozen weights. diffusers' own property iterates over all modules, 4,000 in SD3."""
    return next(model.parameters()).dtype


_found: WeakKeyDictionary[nn.Module, tuple[tuple[str, ...], list[Any]]] = WeakKeyDictionary()


def _lora_layers(model: nn.Module) -> list[Any]:
    """Cached while the model has the same adapters: a step needs it some twenty times, and a GPU would wait for it."""
    names = tuple(getattr(model, "peft_config", ()))
    if model not in _found or _found[model][0] != names:
        _found[model] = names, _walk(model)
    return _found[model][1]


def _walk(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
