import copy
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from tsdsr.inference.networks.fold import streamline
from tsdsr.inference.networks.merge import merge_adapter
from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.models import adapters, presets
from tsdsr.models.prompt import Prompt

SHAPE = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 20,
}
SD35 = {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}
PROMPT = Prompt(torch.randn(7, 24, generator=torch.Generator().manual_seed(5)), torch.linspace(-1, 1, 12))


def build(extra: dict) -> SD3Transformer2DModel:
    torch.manual_seed(1)
    model = SD3Transformer2DModel(**SHAPE, **extra).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def plain(model: SD3Transformer2DModel, latents: torch.Tensor) -> torch.Tensor:
    rows = latents.shape[0]
    return model(
        hidden_states=latents,
        timestep=torch.full((rows,), 1000.0),
        encoder_hidden_states=PROMPT.embeds.to(latents).expand(rows, -1, -1),
        pooled_projections=PROMPT.pooled.to(latents).expand(rows, -1),
        return_dict=False,
    )[0]


def test_it_is_traced_whole_and_computes_the_same() -> None:
    """What `torch.compile` needs: one graph, without a break back to Python. The backend runs the graph as it is."""
    transformer = streamline(build({}), PROMPT)
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = transformer(latents)
    torch.testing.assert_close(torch.compile(transformer, fullgraph=True, backend="eager")(latents), expected)


@pytest.mark.parametrize("extra", [{}, SD35], ids=["sd3", "sd3.5"])
@pytest.mark.parametrize("size", [(8, 8), (6, 20)])
def test_equals_the_plain_transformer(extra: dict, size: tuple[int, int]) -> None:
    model = build(extra)
    latents = torch.randn(3, 4, *size, dtype=torch.float64)
    expected = plain(model, latents)
    result = streamline(model, PROMPT)(latents)
    # the folding is done in float32, the comparison in float64
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=2e-5)
    assert expected.std() > 0.1


def test_merging_equals_the_live_adapter() -> None:
    model = build({}).float()
    adapters.add_adapter(model, "student", rank=3, alpha=6, targets=adapters.STUDENT_TARGETS, seed=0, trainable=False)
    adapters.add_adapter(model, "other", rank=3, alpha=6, targets=adapters.ATTENTION_TARGETS, seed=0, trainable=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    latents = torch.randn(2, 4, 8, 8)
    base = plain(model, latents)
    with adapters.active(model, "student"):
        expected = plain(model, latents)
    merged = copy.deepcopy(model)
    merge_adapter(merged, "student")
    torch.testing.assert_close(plain(merged, latents), expected, atol=1e-4, rtol=1e-4)
    assert (expected - base).abs().max() > 0.01
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = streamline(build(SD35).float(), PROMPT)
    model.save_pretrained(tmp_path)
    again = StreamlinedTransformer.from_pretrained(tmp_path)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    latents = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(again(latents), model(latents))


def test_positions_that_are_not_sd3s_are_refused() -> None:
    model = build({})
    model.pos_embed.pos_embed[0, 3, 2] += 1
    with pytest.raises(ValueError, match="position table"):
        streamline(model, PROMPT)


def test_sd3_medium_loses_a_third_of_its_parameters() -> None:
    preset = presets.get("sd3-medium")
    config = preset.shape["transformer"]
    before = presets.count_parameters(presets.build_transformer(preset, seed=0, device="meta"))
    with torch.device("meta"):
        after = presets.count_parameters(
            StreamlinedTransformer(
                in_channels=config["in_channels"],
                patch_size=config["patch_size"],
                num_layers=config["num_layers"],
                num_heads=config["num_attention_heads"],
                head_dim=config["attention_head_dim"],
                context_length=preset.prompt_tokens,
                sample_size=config["sample_size"],
                pos_embed_max_size=config["pos_embed_max_size"],
            )
        )
    print(f"SD3-medium's transformer: {before / 1e6:.0f} M parameters, streamlined {after / 1e6:.0f} M")
    assert 0.30 < 1 - after / before < 0.36
