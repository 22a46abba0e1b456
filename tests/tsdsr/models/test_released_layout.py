"""A student directory as TSD-SR's authors lay it out, written here without this project's own code for saving."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import random_prompt, tiny_transformer, tiny_vae
from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.models import adapters, presets
from tsdsr.models.student import Student, load_student, read_config, read_prompt

RANK = 64
LORA = {"rank": RANK, "alpha": RANK, "vae_rank": RANK}
CONFIG = {"format": 1, "scale": 4, "use_shift": False, "lora": LORA, "decoder_noise": 0.0}
ENDINGS = ["to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "proj", "linear", "proj_out"]
KINDS = (torch.nn.Linear, torch.nn.Conv2d)


def released(model: torch.nn.Module, wanted) -> dict[str, torch.Tensor]:
    """lora_A and lora_B of rank 64 for the layers that `wanted` picks, prefix and all, with random values."""
    state, draw = {}, seeding.generator(0, "released")
    for name, layer in model.named_modules():
        if not isinstance(layer, KINDS) or not wanted(name):
            continue
        if isinstance(layer, torch.nn.Conv2d):
            down, up = (RANK, layer.in_channels, *layer.kernel_size), (layer.out_channels, RANK, 1, 1)
        else:
            down, up = (RANK, layer.in_features), (layer.out_features, RANK)
        for half, shape in (("A", down), ("B", up)):
            meta = next(layer.parameters()).is_meta
            value = torch.empty(shape, device="meta") if meta else 0.01 * torch.randn(shape, generator=draw)
            state[f"transformer.{name}.lora_{half}.weight"] = value
    return state


def of_transformer(name: str) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ENDINGS)


def of_vae(name: str) -> bool:
    return name.startswith("encoder.") or name == "quant_conv"


@pytest.fixture
def directory(tmp_path):
    target = tmp_path / "released"
    target.mkdir()
    save_file(released(tiny_transformer(), of_transformer), target / "transformer.safetensors")
    save_file(released(tiny_vae(), of_vae), target / "vae.safetensors")
    return target


def test_it_loads_key_by_key_and_saves_back_to_the_same(directory, tmp_path):
    student, config = load_student(tiny_vae(), tiny_transformer(), directory)
    assert config == CONFIG  # nothing but the two files is published
    assert {
        scale
        for model in (student.transformer, student.vae)
        for layer in model.modules()
        for scale in getattr(layer, "scaling", {}).values()
    } == {1.0}
    student.save(tmp_path / "ours", config, random_prompt(0))
    for name in ("transformer.safetensors", "vae.safetensors"):
        before, after = load_file(directory / name), load_file(tmp_path / "ours" / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert read_config(tmp_path / "ours") == CONFIG


def test_the_prompts_embeddings_are_asked_for(directory):
    with pytest.raises(UserError, match="prompt_embeds"):
        read_prompt(directory)


def test_a_prompts_embeddings_under_other_names_are_refused_with_what_is_there(tmp_path):
    save_file({"prompt_embeds": torch.zeros(5, 12), "pooled": torch.zeros(10)}, tmp_path / "prompt.safetensors")
    with pytest.raises(UserError, match=r"lacks pooled_embeds; found .*pooled"):
        read_prompt(tmp_path)


@pytest.mark.parametrize("name", ["transformer.safetensors", "vae.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "has shape"])
def test_what_does_not_fit_is_named_with_its_file(directory, name, fault):
    state = load_file(directory / name)
    key = sorted(state)[-1]
    if fault == "missing":
        del state[key]
    elif fault == "unknown":
        key = "transformer.decoder.conv_in.lora_A.weight"
        state[key] = torch.zeros(RANK, 4, 3, 3)
    else:
        state[key] = state[key][:1]
    save_file(state, directory / name)
    with pytest.raises(UserError, match=re.escape(key)) as caught:
        load_student(tiny_vae(), tiny_transformer(), directory)
    assert fault in str(caught.value)
    assert str(directory / name) in str(caught.value)


def test_at_sd3_mediums_size():
    """Both files' keys are the model's own, one for one; 266 layers of the transformer and 31 of the encoder."""
    preset = presets.get("sd3-medium")
    vae = presets.build_vae(preset, seed=0, device="meta")
    transformer = presets.build_transformer(preset, seed=0, device="meta")
    found = released(transformer, of_transformer), released(vae, of_vae)
    assert [len(state) for state in found] == [2 * 266, 2 * 31]
    student = Student(vae, transformer, use_shift=False)
    with torch.device("meta"):
        student.add_adapters(rank=RANK, alpha=RANK, seed=0)
    for model, state in zip((transformer, vae), found, strict=True):
        adapters.load_state(model, adapters.STUDENT, state, "released")
        assert {f"transformer.{key}" for key in adapters.parameters(model, adapters.STUDENT)} == state.keys()
