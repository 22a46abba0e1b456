"""Text: embeddings of prompts by a teacher's three encoders, and the tiny preset's own encoders and tokenizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tsdsr import seeding
from tsdsr.models.presets import Preset
from tsdsr.models.prompt import Prompt

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

T5_MAX_TOKENS = 256  # what SD3's pipeline takes of T5 by default


def encode_prompts(pipe: StableDiffusion3Pipeline, prompts: Sequence[str]) -> list[Prompt]:
    """Embed prompts exactly as SD3's pipeline does: CLIP's hidden states side by side and padded, then T5's below them.

    Each prompt is encoded by itself, so its embedding does not depend on its neighbours in a batch.

    Args:
        pipe: anything with StableDiffusion3Pipeline's text components.
        prompts: texts; "" is the null prompt of guidance.

    Returns:
        one `Prompt` each, in float32 on the CPU: embeds [L,D] and pooled [P].
    """
    return [_encode(pipe, prompt) for prompt in prompts]


@torch.no_grad()
def _encode(pipe: Any, prompt: str) -> Prompt:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompt=[prompt],
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=min(T5_MAX_TOKENS, pipe.tokenizer_3.model_max_length),
    )
    return Prompt(embeds=embeds[0].float().cpu(), pooled=pooled[0].float().cpu())


def build_text(preset: Preset, texts: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Text components for a preset without published ones: tokenizers fitted to `texts`, encoders with random weights.

    Untrained encoders are enough here: captions only have to be told apart, and the transformer learns what each means.

    Returns:
        tokenizer, tokenizer_2, tokenizer_3, text_encoder, text_encoder_2, text_encoder_3; the encoders frozen.
    """
    shape = preset.shape
    clip = clip_tokenizer(texts, shape["text_encoder"]["vocab_size"], shape["max_tokens"]["clip"])
    t5 = t5_tokenizer(texts, shape["text_encoder_3"]["vocab_size"], shape["max_tokens"]["t5"])
    return {
        "tokenizer": clip,
        "tokenizer_2": clip,
        "tokenizer_3": t5,
        "text_encoder": _clip_encoder(shape["text_encoder"], clip, seeding.derive(seed, "text_encoder")),
        "text_encoder_2": _clip_encoder(shape["text_encoder_2"], clip, seeding.derive(seed, "text_encoder_2")),
        "text_encoder_3": _t5_encoder(shape["text_encoder_3"], t5, seeding.derive(seed, "text_encoder_3")),
    }


def clip_tokenizer(texts: Sequence[str], vocab_size: int, max_tokens: int) -> Any:
    """CLIP's byte-level tokenizer with merges learnt from `texts`; any text can be encoded, known words in few tokens."""
    import json

    from tokenizers import trainers
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    learner = CLIPTokenizer()  # for its own normalisation and splitting of text
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=_byte_alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.backend_tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    model = json.loads(learner.backend_tokenizer.to_str())["model"]
    vocab = _with_word_ends(model["vocab"])
    return CLIPTokenizer(vocab=vocab, merges=[tuple(merge) for merge in model["merges"]], model_max_length=max_tokens)


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _with_word_ends(vocab: dict[str, int]) -> dict[str, int]:
    """Add each byte's word-ending form where training met none, so that no text is unknown."""
    result = dict(vocab)
    for byte in _byte_alphabet():
        result.setdefault(f"{byte}</w>", len(result))
    return result


def t5_tokenizer(texts: Sequence[str], vocab_size: int, max_tokens: int) -> Any:
    """A unigram tokenizer over the words of `texts` and their letters; a letter it has not seen is unknown to it."""
    from transformers import T5TokenizerFast

    words = Counter(word for text in texts for word in text.split())
    letters = sorted({letter for word in words for letter in word} | set("▁abcdefghijklmnopqrstuvwxyz,.'-"))
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(letter, -10.0) for letter in letters]
    room = vocab_size - len(special) - len(pieces)
    pieces += [(f"▁{word}", -1.0) for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:room]]
    return T5TokenizerFast(vocab=special + pieces[: vocab_size - 3], extra_ids=0, model_max_length=max_tokens)


def _clip_encoder(config: dict[str, Any], tokenizer: Any, seed: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPTextModelWithProjection(CLIPTextConfig(**config, **ids, pad_token_id=tokenizer.pad_token_id))
        # CLIP starts with embeddings of 0.02 and takes the hidden states before its last norm: of unit size they are
        # inputs that a transformer can use without training the encoder.
        nn.init.normal_(model.text_model.embeddings.token_embedding.weight)
    return model.requires_grad_(False).eval()


def _t5_encoder(config: dict[str, Any], tokenizer: Any, seed: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5EncoderModel(T5Config(**config, pad_token_id=tokenizer.pad_token_id))
    return model.requires_grad_(False).eval()
