"""SD3-medium's latent cache at 512 px: what its networks give (on the meta device), and what is written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tsdsr import compat

compat.apply()

from diffusers import StableDiffusion3Pipeline  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel  # noqa: E402

from tests.caches import write_cache  # noqa: E402
from tsdsr.data.cache import Sample  # noqa: E402
from tsdsr.models import presets  # noqa: E402
from tsdsr.models.codec import LatentCodec  # noqa: E402
from tsdsr.models.prompt import Prompt  # noqa: E402

SHAPES = {"latent": [16, 64, 64], "embeds": [333, 4096], "pooled": [2048]}
SD3 = presets.get("sd3-medium")


def test_the_encoders_latents():
    codec = LatentCodec(presets.build_vae(SD3, seed=0, device="meta"), use_shift=False)
    assert codec.factor == 8
    with torch.no_grad():
        assert list(codec.encode(torch.empty(1, 3, 512, 512, device="meta"))[0].shape) == SHAPES["latent"]


class Words:
    """Stands for a tokenizer: as many tokens as it is asked for."""

    model_max_length = 77

    def __call__(self, texts, max_length=None, **options):
        return SimpleNamespace(input_ids=torch.zeros(len(texts), max_length or 77, dtype=torch.long))


def test_the_text_encoders_embeddings():
    """Both CLIPs and T5-XXL, through the pipeline's own `encode_prompt`."""
    shape = SD3.shape
    with torch.device("meta"):
        clips = [CLIPTextModelWithProjection(CLIPTextConfig(**shape[f"text_encoder{end}"])) for end in ("", "_2")]
        t5 = T5EncoderModel(T5Config(**shape["text_encoder_3"]))
    pipe = SimpleNamespace(
        text_encoder=clips[0],
        text_encoder_2=clips[1],
        text_encoder_3=t5,
        tokenizer=Words(),
        tokenizer_2=Words(),
        tokenizer_3=Words(),
        tokenizer_max_length=77,
        _execution_device=torch.device("meta"),
    )
    kind = StableDiffusion3Pipeline
    for name in ("_get_clip_prompt_embeds", "_get_t5_prompt_embeds"):
        setattr(pipe, name, getattr(kind, name).__get__(pipe))
    with torch.no_grad():
        embeds, _, pooled, _ = kind.encode_prompt(
            pipe,
            prompt=["a cat"],
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=shape["max_tokens"]["t5"],
        )
    assert list(embeds[0].shape) == SHAPES["embeds"]
    assert list(pooled[0].shape) == SHAPES["pooled"]
    assert SD3.prompt_tokens == SHAPES["embeds"][0]
    assert shape["transformer"]["joint_attention_dim"] == SHAPES["embeds"][1]
    assert shape["transformer"]["pooled_projection_dim"] == SHAPES["pooled"][0]
    assert shape["transformer"]["in_channels"] == SHAPES["latent"][0]


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_the_manifest_and_the_bytes(tmp_path, dtype, width):
    texts = ("a sharp photograph", "")
    cache = write_cache(
        tmp_path / "cache",
        [Sample(f"photo-{number}", "", torch.ones(SHAPES["latent"])) for number in range(2)],
        [(text, Prompt(torch.ones(SHAPES["embeds"]), torch.ones(SHAPES["pooled"]))) for text in texts],
        default_prompt=texts[0],
        dtype=dtype,
    )
    assert cache.manifest["dtype"] == dtype
    assert cache.manifest["shapes"] == SHAPES
    (latents,), (prompts,) = cache.manifest["shards"]["latents"], cache.manifest["shards"]["prompts"]
    assert latents["bytes"] == pytest.approx(2 * width * 16 * 64 * 64, rel=0.01)
    assert prompts["bytes"] == pytest.approx(2 * width * (333 * 4096 + 2048), rel=0.01)  # 5.5 MB a caption in float32
    for tensor, name in ((cache.latent(1), "latent"), (cache.default.embeds, "embeds"), (cache.null.pooled, "pooled")):
        assert list(tensor.shape) == SHAPES[name]
        assert tensor.dtype == (getattr(torch, dtype) if name == "pooled" else torch.float32)  # null as it is stored
