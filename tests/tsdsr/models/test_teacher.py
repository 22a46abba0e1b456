from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from tests.teachers import write_random_teacher
from tests.tiny import randomize, relative
from tsdsr import files, seeding
from tsdsr.errors import UserError
from tsdsr.models import adapters, presets, text
from tsdsr.models import teacher as teachers

TINY = presets.get("tiny")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_random_teacher(tmp_path_factory.mktemp("teacher"))


def velocity(teacher: teachers.Teacher) -> torch.Tensor:
    draw = seeding.generator(0, "inputs")
    return teacher.transformer(
        hidden_states=torch.randn(2, 16, 8, 8, generator=draw),
        timestep=torch.tensor([500.0, 900.0]),
        encoder_hidden_states=torch.randn(2, TINY.prompt_tokens, 64, generator=draw),
        pooled_projections=torch.randn(2, 64, generator=draw),
        return_dict=False,
    )[0]


def test_sd3s_own_pipeline_opens_it_and_draws_a_picture(directory):
    pipe = StableDiffusion3Pipeline.from_pretrained(directory)
    pipe.set_progress_bar_config(disable=True)
    draw = seeding.generator(0, "picture")
    (image,) = pipe("a cat", height=64, width=64, num_inference_steps=2, generator=draw, output_type="np").images
    assert image.shape == (64, 64, 3)


def test_a_teacher_is_frozen_and_its_text_optional(directory):
    teacher = teachers.load_teacher(directory, text_encoders=False)
    assert teacher.text is None
    assert not adapters.has_adapter(teacher.transformer, adapters.TEACHER)
    assert teacher.schedule.shift == 3.0
    for model in (teacher.vae, teacher.transformer):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with_text = teachers.load_teacher(directory, text_encoders=True)
    (prompt,) = text.encode_prompts(with_text.text, ["a cat, asleep"])
    assert prompt.embeds.shape == (TINY.prompt_tokens, 64)


def test_a_pointer_leads_to_the_weights(directory, tmp_path):
    files.write_json(tmp_path / teachers.RECORD, {"format": 1, "source": str(directory), "revision": None})
    pointed, direct = (teachers.load_teacher(path, text_encoders=False) for path in (tmp_path, directory))
    assert velocity(pointed).equal(velocity(direct))


def test_a_fine_tuned_teacher_carries_its_adapter(directory, tmp_path):
    base = teachers.load_teacher(directory, text_encoders=False)
    before = velocity(base)
    adapters.add_adapter(
        base.transformer, adapters.TEACHER, rank=2, alpha=2, targets=adapters.ATTENTION_TARGETS, seed=0
    )
    randomize(base.transformer, adapters.TEACHER)
    with adapters.active(base.transformer, adapters.TEACHER):
        tuned = velocity(base)
    shutil.copytree(directory, tmp_path / "teacher")
    adapters.save(base.transformer, adapters.TEACHER, tmp_path / "teacher" / teachers.FINETUNED)

    loaded = teachers.load_teacher(tmp_path / "teacher", text_encoders=False)
    assert adapters.has_adapter(loaded.transformer, adapters.TEACHER)
    assert not any(parameter.requires_grad for parameter in loaded.transformer.parameters())
    assert relative(velocity(loaded), before) < 1e-6
    with adapters.active(loaded.transformer, adapters.TEACHER):
        assert relative(velocity(loaded), tuned) < 1e-6
    assert relative(tuned, before) > 1e-3


ENDING = "attn.to_q.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state, key: state.pop(key), "missing KEY"),
        (lambda state, key: [state.pop(key.replace("lora_B", f"lora_{half}")) for half in "AB"], "missing .*KEY"),
        (lambda state, key: state.update({key.replace("to_q", "to_z"): torch.zeros(8, 2)}), "unknown .*to_z"),
        (lambda state, key: state.update({key: torch.zeros(3, 2)}), r"KEY has shape \[3, 2\], the model needs"),
        (
            lambda state, key: [state.update({f"unet.{name}": state.pop(name)}) for name in list(state)],
            "none of its keys names a layer of this transformer",
        ),
    ],
    ids=["half a layer missing", "a layer missing", "extra", "misshapen", "of another model"],
)
def test_a_teacher_adapter_that_does_not_fit_is_refused_by_key(directory, tmp_path, damage, message):
    base = teachers.load_teacher(directory, text_encoders=False).transformer
    adapters.add_adapter(base, adapters.TEACHER, rank=2, alpha=2, targets=adapters.ATTENTION_TARGETS, seed=0)
    state = adapters.state_dict(base, adapters.TEACHER)
    key = next(name for name in state if name.endswith(ENDING))
    shutil.copytree(directory, tmp_path / "teacher")
    path = tmp_path / "teacher" / teachers.FINETUNED
    save_file(state, path)
    loaded = teachers.load_teacher(tmp_path / "teacher", text_encoders=False).transformer
    adapters.save(loaded, adapters.TEACHER, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()  # every key, and back
    damage(state, key)
    save_file(state, path)
    with pytest.raises(UserError, match=message.replace("KEY", re.escape(key))) as caught:
        teachers.load_teacher(tmp_path / "teacher", text_encoders=False)
    assert str(path) in str(caught.value)


def test_the_fingerprint_follows_every_byte(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "copy")
    before = teachers.fingerprint(directory)
    assert teachers.fingerprint(tmp_path / "copy") == before
    (tmp_path / "copy" / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert teachers.fingerprint(tmp_path / "copy") != before


def without(part: Path, name: str) -> None:
    weights = part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors[name]
    save_file(tensors, weights)


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data/teacher: no such directory"):
        teachers.locate(Path("data/teacher"))
    assert teachers.locate("owner/name").source == "owner/name"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: shutil.rmtree(path), "no such directory"),
        (lambda path: (path / teachers.RECORD).write_text(json.dumps({"format": 9})), "format 9"),
        (lambda path: [file.unlink() for file in path.glob("*.json")], "not a teacher"),
        (lambda path: (path / "vae" / "config.json").unlink(), "cannot load the teacher"),
        (
            lambda path: (path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"none"),
            "cannot load the teacher",
        ),
        (lambda path: without(path / "vae", "decoder.conv_out.weight"), "vae lacks 1 of its weights, decoder.conv_out"),
        (lambda path: without(path / "transformer", "proj_out.bias"), "transformer lacks 1 of its weights, proj_out"),
    ],
)
def test_a_teacher_that_cannot_be_read_is_one_clear_line(directory, tmp_path, change, reason):
    broken = tmp_path / "teacher"
    shutil.copytree(directory, broken)
    change(broken)
    with pytest.raises(UserError, match=reason) as caught:
        teachers.load_teacher(broken, text_encoders=False)
    assert "\n" not in str(caught.value)


def test_a_directory_of_the_presets_shape_is_recorded(directory):
    record = teachers.inspect(str(directory), TINY)
    assert record["source"] == str(directory.resolve())
    assert record["weights"]["vae/diffusion_pytorch_model.safetensors"] > 0
    assert {"format", "preset", "revision"} < record.keys()


def test_a_directory_of_another_shape_is_refused_with_what_differs(directory):
    with pytest.raises(UserError, match=r"transformer.num_layers is 4, the preset sd3-medium has 24"):
        teachers.inspect(str(directory), presets.get("sd3-medium"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / "model_index.json").unlink(), r"lacks .*model_index\.json"),
        (lambda path: (path / "text_encoder_3" / "config.json").unlink(), r"lacks text_encoder_3/config\.json"),
        (lambda path: (path / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "no safetensors weights in vae"),
    ],
)
def test_an_incomplete_directory_is_refused(directory, tmp_path, change, reason):
    shutil.copytree(directory, tmp_path / "teacher")
    change(tmp_path / "teacher")
    with pytest.raises(UserError, match=reason):
        teachers.inspect(str(tmp_path / "teacher"), TINY)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("GatedRepoError", "is gated: accept its licence"),
        ("RepositoryNotFoundError", "no such repository"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
    ],
)
def test_a_hub_that_refuses_is_one_clear_line(monkeypatch, error, reason):
    import huggingface_hub
    from huggingface_hub import errors

    class Answer(getattr(errors, error)):
        def __init__(self) -> None:
            Exception.__init__(self, "403 Client Error")

    def refuse(*_, **__):
        raise Answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=reason):
        teachers.inspect("stabilityai/stable-diffusion-3-medium-diffusers", presets.get("sd3-medium"))


def test_a_source_that_is_neither_directory_nor_hub_id(tmp_path):
    with pytest.raises(UserError, match="neither a directory nor a hub id"):
        teachers.inspect(str(tmp_path / "gone"), TINY)
