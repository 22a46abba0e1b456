from __future__ import annotations

import pytest

from tsdsr.errors import UserError
from tsdsr.models import presets

TINY, MEDIUM = presets.get("tiny"), presets.get("sd3-medium")


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UserError, match="unknown preset 'sd4'; known: tiny, tiny-patch1, nano, sd3-medium"):
        presets.get("sd4")


def test_sd3_medium_has_its_published_size_on_the_meta_device():
    transformer = presets.build_transformer(MEDIUM, seed=0, device="meta")
    vae = presets.build_vae(MEDIUM, seed=0, device="meta")
    assert {parameter.device.type for parameter in transformer.parameters()} == {"meta"}
    assert presets.count_parameters(transformer) == 2_028_328_000
    assert presets.count_parameters(vae) == 83_819_683
    assert len(transformer.transformer_blocks) == 24
    assert MEDIUM.prompt_tokens == 333


def test_tiny_is_small_and_trained():
    assert TINY.trained
    assert not MEDIUM.trained
    assert presets.count_parameters(presets.build_transformer(TINY, seed=0, device="meta")) < 4e6
    assert presets.count_parameters(presets.build_vae(TINY, seed=0, device="meta")) < 2e6


def test_a_shape_says_what_differs_from_its_base():
    shape = presets.get("tiny-patch1").shape
    assert shape["transformer"]["patch_size"] == 1
    assert {part: values for part, values in shape.items() if part != "transformer"} == {
        part: values for part, values in TINY.shape.items() if part != "transformer"
    }
    assert shape["transformer"].keys() == TINY.shape["transformer"].keys()


@pytest.mark.parametrize("preset", presets.PRESETS.values(), ids=presets.PRESETS)
def test_the_parts_of_a_preset_fit_together(preset):
    shape = preset.shape
    transformer, first, second, t5 = (
        shape[part] for part in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    )
    assert transformer["in_channels"] == transformer["out_channels"] == shape["vae"]["latent_channels"] == 16
    assert transformer["joint_attention_dim"] == t5["d_model"] >= first["hidden_size"] + second["hidden_size"]
    assert transformer["pooled_projection_dim"] == first["projection_dim"] + second["projection_dim"]
    assert first["max_position_embeddings"] == shape["max_tokens"]["clip"]
    assert presets.build_scheduler(preset).config.shift == 3.0


def test_the_seed_decides_the_weights():
    first, again, other = (presets.build_vae(TINY, seed=seed) for seed in (0, 0, 1))
    weight = "encoder.conv_in.weight"
    assert first.state_dict()[weight].equal(again.state_dict()[weight])
    assert not first.state_dict()[weight].equal(other.state_dict()[weight])


def test_mismatches_name_the_key_and_both_values():
    config = dict(presets.build_vae(MEDIUM, seed=0, device="meta").config)
    assert presets.mismatches(MEDIUM, "vae", config) == []
    found = presets.mismatches(MEDIUM, "vae", config | {"latent_channels": 4})
    assert found == ["vae.latent_channels is 4, the preset sd3-medium has 16"]
