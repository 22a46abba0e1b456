from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import CHANNELS, POOLED, TOKENS, WIDTH, randomize, relative, tiny_transformer
from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.models import adapters

RANK = 4
NAMES = {adapters.STUDENT: adapters.STUDENT_TARGETS, adapters.FAKE_SCORE: adapters.ATTENTION_TARGETS}


def add(model, name: str, targets=None, **changes) -> None:
    options = {"rank": RANK, "alpha": RANK, "targets": targets or NAMES[name], "seed": 0}
    adapters.add_adapter(model, name, **(options | changes))


def predict(model, rows: int = 2) -> torch.Tensor:
    draw = seeding.generator(0, "inputs")
    return model(
        hidden_states=torch.randn(rows, CHANNELS, 8, 8, generator=draw),
        timestep=torch.rand(rows, generator=draw) * 1000,
        encoder_hidden_states=torch.randn(rows, TOKENS, WIDTH, generator=draw),
        pooled_projections=torch.randn(rows, POOLED, generator=draw),
        return_dict=False,
    )[0]


@pytest.fixture
def both(transformer):
    """Student and fake score, both with random values, on one base."""
    for name in NAMES:
        add(transformer, name)
        randomize(transformer, name)
    return transformer


def test_a_new_adapter_changes_nothing_and_is_not_active(transformer):
    before = predict(transformer)
    for name in NAMES:
        add(transformer, name)
        torch.testing.assert_close(predict(transformer), before)
        with adapters.active(transformer, name):
            torch.testing.assert_close(predict(transformer), before)
    randomize(transformer, adapters.STUDENT)
    torch.testing.assert_close(predict(transformer), before)


def test_the_targets_are_the_released_ones(transformer):
    add(transformer, adapters.STUDENT)
    add(transformer, adapters.FAKE_SCORE)
    modules = {name.rsplit(".lora_", 1)[0] for name in adapters.parameters(transformer, adapters.STUDENT)}
    blocks = [f"transformer_blocks.{i}" for i in range(2)]
    attention = {f"{block}.attn.{end}" for block in blocks for end in adapters.ATTENTION_TARGETS}
    assert {name.rsplit(".lora_", 1)[0] for name in adapters.parameters(transformer, adapters.FAKE_SCORE)} == attention
    # proj: the patch embedding and the feed-forwards' first layers; linear: the adaptive norms; proj_out: the end
    wanted = attention | {"pos_embed.proj", "norm_out.linear", "proj_out"}
    wanted |= {f"{block}.norm1.linear" for block in blocks} | {f"{block}.norm1_context.linear" for block in blocks}
    wanted |= {f"{block}.ff.net.0.proj" for block in blocks} | {"transformer_blocks.0.ff_context.net.0.proj"}
    assert modules == wanted


def test_the_vaes_targets_are_its_encoder_alone(vae):
    add(vae, adapters.STUDENT, adapters.VAE_ENCODER_TARGETS)
    found = {name.rsplit(".lora_", 1)[0] for name in adapters.parameters(vae, adapters.STUDENT)}
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    wanted = {
        name.replace(".base_layer", "")
        for name, module in vae.named_modules()
        if isinstance(module, kinds) and name.startswith(("encoder.", "quant_conv")) and "lora_" not in name
    }
    assert found == wanted
    assert "encoder.mid_block.attentions.0.to_q" in found
    assert "quant_conv" in found


def test_only_adapters_train_and_in_float32(transformer):
    transformer.to(torch.bfloat16)
    for name in NAMES:
        add(transformer, name)
    trainable = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in transformer.named_parameters() if ".lora_" in name}
    for name in NAMES:
        assert {parameter.dtype for parameter in adapters.parameters(transformer, name).values()} == {torch.float32}


def test_an_adapter_for_inference_does_not_train(transformer):
    add(transformer, adapters.STUDENT, trainable=False)
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_the_draw_belongs_to_seed_and_name():
    def drawn(seed: int, name: str, noise: int) -> torch.Tensor:
        model = tiny_transformer()
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        add(model, name, adapters.ATTENTION_TARGETS, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return torch.cat([p.detach().flatten() for p in adapters.parameters(model, name).values()])

    assert torch.equal(drawn(0, "a", 1), drawn(0, "a", 2))
    assert not torch.equal(drawn(0, "a", 1), drawn(1, "a", 1))
    assert not torch.equal(drawn(0, "a", 1), drawn(0, "b", 1))


def test_one_base_switched_equals_separate_models(both):
    wanted = {}
    for name in NAMES:
        alone = tiny_transformer()
        add(alone, name)
        adapters.load_state(alone, name, adapters.state_dict(both, name), "the other model")
        with adapters.active(alone, name):
            wanted[name] = predict(alone)
    base = predict(tiny_transformer())
    for name in (*NAMES, *NAMES):
        with adapters.active(both, name):
            torch.testing.assert_close(predict(both), wanted[name])
        torch.testing.assert_close(predict(both), base)
    assert relative(wanted[adapters.STUDENT], base) > 1e-3
    assert relative(wanted[adapters.FAKE_SCORE], wanted[adapters.STUDENT]) > 1e-3


def test_active_adapters_add_up(both):
    """Two adapters on the same layers at once: their low-rank products are summed, as merging them would."""
    for name in NAMES:
        factors = adapters.state_dict(both, name)
        with torch.no_grad():
            for layer, module in tiny_parts(both).items():
                if f"transformer.{layer}.lora_A.weight" in factors:
                    a, b = (factors[f"transformer.{layer}.lora_{half}.weight"] for half in "AB")
                    module.base_layer.weight += (b.flatten(1) @ a.flatten(1)).reshape(module.base_layer.weight.shape)
    merged = predict(both)
    for name in NAMES:  # take the products out again
        factors = adapters.state_dict(both, name)
        with torch.no_grad():
            for layer, module in tiny_parts(both).items():
                if f"transformer.{layer}.lora_A.weight" in factors:
                    a, b = (factors[f"transformer.{layer}.lora_{half}.weight"] for half in "AB")
                    module.base_layer.weight -= (b.flatten(1) @ a.flatten(1)).reshape(module.base_layer.weight.shape)
    with adapters.active(both, *NAMES):
        torch.testing.assert_close(predict(both), merged, rtol=1e-4, atol=1e-4)


def tiny_parts(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}


def test_active_restores_what_was_active_and_leaves_requires_grad(both):
    flags = [parameter.requires_grad for parameter in both.parameters()]
    with adapters.active(both, adapters.STUDENT):
        student = predict(both)
        with adapters.active(both):
            base = predict(both)
            assert [parameter.requires_grad for parameter in both.parameters()] == flags
        torch.testing.assert_close(predict(both), student)
        with pytest.raises(RuntimeError), adapters.active(both, adapters.FAKE_SCORE):
            raise RuntimeError
        torch.testing.assert_close(predict(both), student)
    torch.testing.assert_close(predict(both), base)
    assert [parameter.requires_grad for parameter in both.parameters()] == flags


def test_a_gradient_reaches_the_active_adapter_alone(both):
    with adapters.active(both, adapters.FAKE_SCORE):
        predict(both).pow(2).mean().backward()
    assert all(p.grad is not None for p in adapters.parameters(both, adapters.FAKE_SCORE).values())
    assert all(p.grad is None for p in adapters.parameters(both, adapters.STUDENT).values())


def test_layers_are_looked_for_once_and_again_when_an_adapter_has_come(transformer, monkeypatch):
    walks, walk = [], adapters._walk
    monkeypatch.setattr(adapters, "_walk", lambda model: walks.append(model) or walk(model))
    add(transformer, adapters.FAKE_SCORE)
    before, walks[:] = predict(transformer), []
    for _ in range(3):
        with adapters.active(transformer, adapters.FAKE_SCORE):
            pass
    assert len(walks) == 1
    add(transformer, adapters.STUDENT, targets=["proj_out"])  # a layer that had none
    randomize(transformer, adapters.STUDENT)
    with adapters.active(transformer, adapters.STUDENT):
        assert not torch.equal(predict(transformer), before)


def test_the_bases_dtype_is_not_an_adapters(both):
    both.to(torch.float64)
    for name in NAMES:
        for parameter in adapters.parameters(both, name).values():
            parameter.data = parameter.data.float()
    assert adapters.base_dtype(both) == both.dtype == torch.float64


def test_has_adapter(both):
    assert adapters.has_adapter(both, adapters.STUDENT)
    assert not adapters.has_adapter(both, adapters.TEACHER)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_the_released_keys_and_loads_back(both, tmp_path, name):
    path = tmp_path / "transformer.safetensors"
    adapters.save(both, name, path)
    state = load_file(path)
    modules = {key.rsplit(".lora_", 1)[0] for key in adapters.parameters(both, name)}
    assert state.keys() == {f"transformer.{module}.lora_{half}.weight" for module in modules for half in "AB"}
    fresh = tiny_transformer()
    add(fresh, name)
    adapters.load(fresh, name, path)
    for key, parameter in adapters.parameters(fresh, name).items():
        assert torch.equal(parameter, state[f"transformer.{key}"])
        assert torch.equal(parameter, adapters.parameters(both, name)[key])
    adapters.save(fresh, name, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_vaes_file_has_the_same_prefix(vae, tmp_path):
    add(vae, adapters.STUDENT, adapters.VAE_ENCODER_TARGETS)
    adapters.save(vae, adapters.STUDENT, tmp_path / "vae.safetensors")
    assert all(key.startswith("transformer.") for key in load_file(tmp_path / "vae.safetensors"))
    adapters.load(vae, adapters.STUDENT, tmp_path / "vae.safetensors")


KEY = "transformer.transformer_blocks.1.attn.to_q.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop(KEY), f"missing {KEY}"),
        (lambda state: state.update({"transformer.nothing.lora_A.weight": torch.zeros(1)}), "unknown .*nothing.lora_A"),
        (lambda state: state.update({KEY: torch.zeros(3, 2)}), rf"{KEY} has shape \[3, 2\], the model needs \[16, 4\]"),
        (lambda state: state.clear(), "and [0-9]+ more"),
    ],
    ids=["missing", "extra", "misshapen", "empty"],
)
def test_a_file_that_does_not_fit_is_refused_by_name(both, tmp_path, damage, message):
    state = adapters.state_dict(both, adapters.STUDENT)
    damage(state)
    path = tmp_path / "transformer.safetensors"
    save_file(state, path)
    before = adapters.state_dict(both, adapters.STUDENT)
    with pytest.raises(UserError, match=message) as caught:
        adapters.load(both, adapters.STUDENT, path)
    assert str(path) in str(caught.value)
    after = adapters.state_dict(both, adapters.STUDENT)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_damaged_or_absent_file_is_named(both, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        adapters.load(both, adapters.STUDENT, tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        adapters.load(both, adapters.STUDENT, tmp_path / "cut.safetensors")


def test_rank_of(both):
    state = adapters.state_dict(both, adapters.STUDENT)
    assert adapters.rank_of(state, "x") == RANK
    state[KEY.replace("lora_B", "lora_A")] = torch.zeros(RANK + 1, 16)
    with pytest.raises(UserError, match="x: expected lora_A weights of one rank"):
        adapters.rank_of(state, "x")
