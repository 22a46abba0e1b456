"""SD3-medium on the meta device: what the student and the fake score add to it, by name and number."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from tsdsr.errors import UserError
from tsdsr.models import adapters, presets
from tsdsr.models.student import Student

RANK = 64


@pytest.fixture(scope="module")
def student() -> Student:
    """Student and fake score on one base, as the distillation builds them, without memory."""
    preset = presets.get("sd3-medium")
    transformer = presets.build_transformer(preset, seed=0, device="meta").requires_grad_(False)
    student = Student(presets.build_vae(preset, seed=0, device="meta"), transformer, use_shift=False)
    with torch.device("meta"):
        student.add_adapters(rank=RANK, alpha=RANK, seed=0)
        adapters.add_adapter(
            transformer, adapters.FAKE_SCORE, rank=RANK, alpha=RANK, targets=adapters.ATTENTION_TARGETS, seed=0
        )
    return student


def layers(model, name: str) -> list[str]:
    """The layers that an adapter sits on."""
    return [
        key.removesuffix(".lora_A.weight") for key in adapters.parameters(model, name) if key.endswith("lora_A.weight")
    ]


def size(model, name: str) -> int:
    return sum(parameter.numel() for parameter in adapters.parameters(model, name).values())


def test_the_fake_scores_targets(student):
    found = layers(student.transformer, adapters.FAKE_SCORE)
    wanted = {f"transformer_blocks.{i}.attn.{end}" for i in range(24) for end in adapters.ATTENTION_TARGETS}
    assert set(found) == wanted
    assert len(found) == 24 * 7
    assert size(student.transformer, adapters.FAKE_SCORE) == 24 * 7 * RANK * (1536 + 1536)


def test_the_students_targets(student):
    found = layers(student.transformer, adapters.STUDENT)
    kinds = Counter(re.sub(r"transformer_blocks\.\d+\.", "", name) for name in found)
    everywhere = [f"attn.{end}" for end in adapters.ATTENTION_TARGETS] + [
        "ff.net.0.proj",
        "norm1.linear",
        "norm1_context.linear",
    ]
    assert {name: kinds.pop(name) for name in everywhere} == dict.fromkeys(everywhere, 24)
    assert kinds == {"ff_context.net.0.proj": 23, "pos_embed.proj": 1, "norm_out.linear": 1, "proj_out": 1}
    assert len(found) == 266
    by_hand = 24 * 7 * (1536 + 1536) + (24 + 23) * (1536 + 6144)  # attention; the feed-forwards' first layers
    by_hand += (24 + 23) * (1536 + 6 * 1536) + (1536 + 2 * 1536)  # adaptive norms; the last block's text has two parts
    by_hand += (16 * 4 + 1536) + (1536 + 2 * 1536) + (1536 + 64)  # patches in, the last norm, patches out
    assert size(student.transformer, adapters.STUDENT) == RANK * by_hand


def test_the_encoders_targets(student):
    found = layers(student.vae, adapters.STUDENT)
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    wanted = {
        name.replace(".base_layer", "")
        for name, module in student.vae.encoder.named_modules(prefix="encoder")
        if isinstance(module, kinds) and "lora_" not in name
    }
    assert set(found) == wanted
    assert Counter(name.split(".")[-1] for name in found) == {
        "conv1": 10,
        "conv2": 10,
        "conv_shortcut": 2,
        "conv": 3,
        "conv_in": 1,
        "conv_out": 1,
        "to_q": 1,
        "to_k": 1,
        "to_v": 1,
        "0": 1,
    }


def test_only_adapters_train_and_the_base_is_there_once(student):
    for model, names in (
        (student.transformer, (adapters.STUDENT, adapters.FAKE_SCORE)),
        (student.vae, (adapters.STUDENT,)),
    ):
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable == {name for name, _ in model.named_parameters() if ".lora_" in name}
        assert sum(size(model, name) for name in names) == sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
    frozen = sum(parameter.numel() for parameter in student.transformer.parameters() if not parameter.requires_grad)
    assert frozen == 2_028_328_000


def released(student: Student) -> dict[str, torch.Tensor]:
    """A file in the released layout, on the meta device."""
    found = adapters.parameters(student.transformer, adapters.STUDENT)
    return {f"transformer.{key}": torch.empty_like(value, device="meta") for key, value in found.items()}


def test_a_released_file_fits_key_by_key(student):
    state = released(student)
    assert len(state) == 2 * 266
    assert state["transformer.transformer_blocks.23.attn.to_out.0.lora_A.weight"].shape == (64, 1536)
    assert state["transformer.pos_embed.proj.lora_A.weight"].shape == (64, 16, 2, 2)
    assert state["transformer.pos_embed.proj.lora_B.weight"].shape == (1536, 64, 1, 1)
    assert adapters.rank_of(state, "released") == 64
    adapters.load_state(student.transformer, adapters.STUDENT, state, "released")
    missing = state.pop("transformer.proj_out.lora_B.weight")
    with pytest.raises(UserError, match=r"missing transformer\.proj_out\.lora_B\.weight"):
        adapters.load_state(student.transformer, adapters.STUDENT, state, "released")
    state["transformer.proj_out.lora_B.weight"] = missing[:1]
    with pytest.raises(UserError, match=r"proj_out\.lora_B\.weight has shape \[1, 64\], the model needs \[64, 64\]"):
        adapters.load_state(student.transformer, adapters.STUDENT, state, "released")
