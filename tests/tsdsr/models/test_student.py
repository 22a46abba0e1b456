from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

from tests.tiny import CHANNELS, random_prompt, randomize, relative, tiny_transformer, tiny_vae
from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.models import adapters
from tsdsr.models.student import Student, load_student, read_config, read_prompt, upsample

CONFIG = {"lora": {"rank": 4, "alpha": 4}, "use_shift": False, "scale": 4}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=seeding.generator(0, "images")) * 2 - 1


@pytest.fixture
def student(transformer, vae) -> Student:
    """With random adapters, so that both do something."""
    student = Student(vae, transformer, use_shift=False)
    student.add_adapters(rank=4, alpha=4, seed=0)
    randomize(transformer, adapters.STUDENT)
    randomize(vae, adapters.STUDENT)
    return student


def test_upsampling_is_clamped_bicubic():
    lq = torch.rand(1, 3, 8, 8, generator=seeding.generator(1)) * 2 - 1
    lq[..., ::2] = 1  # an edge that bicubic overshoots
    found = upsample(lq, 4)
    assert found.shape == (1, 3, 32, 32)
    assert found.abs().max() <= 1
    wanted = functional.interpolate(lq, size=(32, 32), mode="bicubic", align_corners=False)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted.clamp(-1, 1))


def test_one_step_from_the_upsampled_image(student, images):
    prompt = random_prompt(0)
    with adapters.active(student.vae, adapters.STUDENT), adapters.active(student.transformer, adapters.STUDENT):
        z_lq = student.vae.encode(images).latent_dist.mode() * 1.5
        velocity = student.transformer(
            hidden_states=z_lq,
            timestep=torch.tensor([1000.0, 1000.0]),
            encoder_hidden_states=prompt.embeds.expand(2, -1, -1),
            pooled_projections=prompt.pooled.expand(2, -1),
        ).sample
    z_hat = student(images, prompt)
    torch.testing.assert_close(z_hat, z_lq - velocity)
    torch.testing.assert_close(student.decode(z_hat), student.vae.decode(z_hat / 1.5).sample)


def test_before_training_the_student_is_the_teachers_one_step(images):
    student = Student(tiny_vae(), tiny_transformer(), use_shift=False)
    prompt = random_prompt(0)
    z_lq = student.codec.encode(images)
    before = student.predict(z_lq, prompt)
    student.add_adapters(rank=4, alpha=4, seed=0)
    torch.testing.assert_close(student(images, prompt), before)


def test_adapters_are_idle_outside_the_students_own_calls(student, images):
    idle = Student(tiny_vae(), tiny_transformer(), use_shift=False)
    torch.testing.assert_close(student.codec.encode(images), idle.codec.encode(images))
    assert relative(student.encode(images), idle.codec.encode(images)) > 1e-3
    z = torch.randn(2, CHANNELS, 8, 8, generator=seeding.generator(2))
    torch.testing.assert_close(student.predict(z, random_prompt(0)), idle.predict(z, random_prompt(0)))


def test_a_gradient_at_z_hat_reaches_both_adapters_and_nothing_else(student, images):
    adapters.add_adapter(
        student.transformer, adapters.FAKE_SCORE, rank=4, alpha=4, targets=adapters.ATTENTION_TARGETS, seed=0
    )
    student(images, random_prompt(0)).pow(2).mean().backward()
    for model in (student.vae, student.transformer):
        mine = adapters.parameters(model, adapters.STUDENT)
        idle = {name for name, p in mine.items() if float(p.grad.abs().max()) == 0}
        assert all(
            "transformer_blocks.1.attn.add_q_proj" in name for name in idle
        )  # the last block's text goes nowhere
        assert {n for n, p in model.named_parameters() if p.grad is not None} == {
            n for n, _ in model.named_parameters() if ".student." in n
        }


def test_the_decoder_and_the_base_never_train(student):
    trainable = {
        n for model in (student.vae, student.transformer) for n, p in model.named_parameters() if p.requires_grad
    }
    assert trainable
    assert all(".lora_" in name and ".student." in name for name in trainable)
    assert not any(name.startswith(("decoder", "post_quant_conv")) for name in trainable)


def test_a_student_directory_round_trips(student, images, tmp_path):
    prompt = random_prompt(3)
    student.save(tmp_path / "student", CONFIG | {"extra": "kept"}, prompt)
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "prompt.safetensors",
        "student.json",
        "transformer.safetensors",
        "vae.safetensors",
    ]
    loaded, config = load_student(tiny_vae(), tiny_transformer(), tmp_path / "student")
    assert config == {"format": 1, "extra": "kept", "decoder_noise": 0.0, **CONFIG}
    again = read_prompt(tmp_path / "student")
    assert torch.equal(again.embeds, prompt.embeds)
    assert torch.equal(again.pooled, prompt.pooled)
    torch.testing.assert_close(loaded(images, again), student(images, prompt))
    assert not any(p.requires_grad for m in (loaded.vae, loaded.transformer) for p in m.parameters())


def test_saving_replaces_a_student_whole(student, tmp_path):
    target = tmp_path / "student"
    target.mkdir()
    (target / "left-over").write_text("old")
    student.save(target, CONFIG, random_prompt(3))
    assert not (target / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_what_is_no_student_is_named(student, tmp_path):
    with pytest.raises(UserError, match=r"transformer\.safetensors, vae\.safetensors missing"):
        read_config(tmp_path)
    target = tmp_path / "student"
    student.save(target, CONFIG, random_prompt(3))
    good = json.loads((target / "student.json").read_text())
    for text, message in [
        ("{", "not valid JSON"),
        (json.dumps(good | {"format": 99}), "format 99"),
        (json.dumps({"format": 1, "scale": 4}), "lacks lora, use_shift"),
        (json.dumps(good | {"decoder_noise": "some"}), "decoder_noise: 'some' is no standard deviation"),
        (json.dumps(good | {"decoder_noise": -0.1}), "decoder_noise: -0.1 is no standard deviation"),
    ]:
        (target / "student.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_config(target)


def test_a_student_of_another_shape_is_refused_by_key(student, tmp_path):
    student.save(tmp_path / "student", CONFIG, random_prompt(3))
    with pytest.raises(UserError, match=r"transformer_blocks\.1.*transformer\.safetensors|transformer\.safetensors"):
        load_student(tiny_vae(), tiny_transformer(num_layers=1), tmp_path / "student")
    config = CONFIG | {"lora": {"rank": 8, "alpha": 8}}
    student.save(tmp_path / "other", config, random_prompt(3))
    with pytest.raises(UserError, match="has shape"):
        load_student(tiny_vae(), tiny_transformer(), tmp_path / "other")
