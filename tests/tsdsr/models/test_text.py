from __future__ import annotations

import logging

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from tsdsr.models import presets, text

TINY = presets.get("tiny")
TEXTS = ["a red cup on a wooden table", "a grey cat, asleep", ""]


@pytest.fixture(scope="module")
def pipe():
    components = text.build_text(TINY, TEXTS, seed=0)
    return StableDiffusion3Pipeline(transformer=None, vae=None, scheduler=presets.build_scheduler(TINY), **components)


def test_prompts_have_the_shape_that_the_transformer_takes(pipe):
    (prompt,) = text.encode_prompts(pipe, TEXTS[:1])
    transformer = TINY.shape["transformer"]
    assert prompt.embeds.shape == (TINY.prompt_tokens, transformer["joint_attention_dim"])
    assert prompt.pooled.shape == (transformer["pooled_projection_dim"],)
    assert prompt.embeds.dtype == prompt.pooled.dtype == torch.float32


def test_prompts_are_told_apart(pipe):
    prompts = text.encode_prompts(pipe, TEXTS)
    for number, first in enumerate(prompts):
        for second in prompts[number + 1 :]:
            assert (first.embeds - second.embeds).abs().mean() > 0.1
            assert (first.pooled - second.pooled).abs().mean() > 0.01


def test_a_prompt_is_what_sd3_pipeline_makes_of_it(pipe):
    embeds, _, pooled, _ = pipe.encode_prompt(
        TEXTS[0], None, None, do_classifier_free_guidance=False, max_sequence_length=TINY.shape["max_tokens"]["t5"]
    )
    (ours,) = text.encode_prompts(pipe, TEXTS[:1])
    assert ours.embeds.equal(embeds[0])
    assert ours.pooled.equal(pooled[0])


def test_the_neighbours_of_a_prompt_do_not_change_it(pipe):
    alone, beside = text.encode_prompts(pipe, TEXTS[:1])[0], text.encode_prompts(pipe, TEXTS)[0]
    assert alone.embeds.equal(beside.embeds)


def test_a_prompt_longer_than_the_encoders_take_is_said_once_in_our_words(pipe, caplog):
    with caplog.at_level(logging.INFO):
        text.encode_prompts(pipe, ["words " * 60, "short"])
    assert [record.name for record in caplog.records] == ["tsdsr.models.text"]
    assert "1 of 2 prompts are longer than CLIP's 24 tokens" in caplog.text


def test_everything_survives_saving(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = StableDiffusion3Pipeline.from_pretrained(tmp_path, transformer=None, vae=None)
    strange = "Zürich, 東京 & ça 42!"
    for kept, read in zip(text.encode_prompts(pipe, [*TEXTS, strange]), text.encode_prompts(again, [*TEXTS, strange])):
        torch.testing.assert_close(read.embeds, kept.embeds)
        torch.testing.assert_close(read.pooled, kept.pooled)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(again, name)
        assert tokenizer.decode(tokenizer(strange).input_ids, skip_special_tokens=True) == "zürich , 東京 & ça 4 2 !"


def test_words_that_were_fitted_are_one_token_each(pipe):
    assert len(pipe.tokenizer(TEXTS[0]).input_ids) == len(TEXTS[0].split()) + 2
    assert len(pipe.tokenizer_3(TEXTS[0]).input_ids) == len(TEXTS[0].split()) + 1


def test_equal_texts_and_seed_make_equal_files(tmp_path):
    for name, texts in (("one", TEXTS), ("two", TEXTS[::-1])):
        for part, component in text.build_text(TINY, texts, seed=0).items():
            component.save_pretrained(tmp_path / name / part)
    paths = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert paths
    for path in paths:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_the_vocabulary_fits_the_encoders_whatever_the_texts():
    texts = [" ".join(f"word{number}x{other}" for other in range(20)) for number in range(200)]
    for part, encoder in (("tokenizer", "text_encoder"), ("tokenizer_3", "text_encoder_3")):
        tokenizer = text.build_text(TINY, texts, seed=0)[part]
        assert len(tokenizer) <= TINY.shape[encoder]["vocab_size"]
