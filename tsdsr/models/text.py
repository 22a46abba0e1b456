"""Text: embeddings of prompts by a teacher's three encoders, and the tiny preset's own encoders and tokenizers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tsdsr import seeding
from tsdsr.models.presets import Preset
from tsdsr.models.prompt import Prompt
from tsdsr.models.quiet import quiet

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

logger = logging.getLogger(__name__)

T5_MAX_TOKENS = 256  # the default of SD3's pipeline for T5
WORD_END = "</w>"
MOST_WORDS = 4096  # from which merges are learnt


def encode_prompts(pipe: StableDiffusion3Pipeline, prompts: Sequence[str], *, rows: int = 1) -> list[Prompt]:
    """Embed prompts exactly as SD3's pipeline does: CLIP's hidden states side by side and padded, then T5's below them.

    By default each prompt is encoded by itself, so that its embedding does not depend on its neighbours in a batch;
    they round its last bits.

    Args:
        pipe: anything with StableDiffusion3Pipeline's text components.
        prompts: texts; "" is the null prompt of guidance.
        rows: texts in a batch.

    Returns:
        one `Prompt` each, in float32 on the CPU: embeds [L,D] and pooled [P].
    """
    with quiet():
        cut = sum(_clip_tokens(pipe, prompt) > pipe.tokenizer_max_length for prompt in prompts)
        if cut:
            logger.info(
                "%d of %d prompts are longer than CLIP's %d tokens; CLIP sees their beginning, T5 up to %d tokens",
                cut,
                len(prompts),
                pipe.tokenizer_max_length,
                _t5_length(pipe),
            )
        parts = [prompts[start : start + rows] for start in range(0, len(prompts), rows)]
        return [prompt for part in parts for prompt in _encode(pipe, part)]


def _clip_tokens(pipe: Any, prompt: str) -> int:
    return len(pipe.tokenizer(prompt).input_ids)


def _t5_length(pipe: Any) -> int:
    return int(min(T5_MAX_TOKENS, pipe.tokenizer_3.model_max_length))


@torch.no_grad()
def _encode(pipe: Any, prompts: Sequence[str]) -> list[Prompt]:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompt=list(prompts),
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=_t5_length(pipe),
    )
    return [Prompt(*parts) for parts in zip(embeds.float().cpu(), pooled.float().cpu(), strict=True)]


def build_text(preset: Preset, texts: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Text components for a preset without published ones: tokenizers fitted to `texts`, encoders with random weights.

    Untrained encoders suffice here: they distinguish captions, and the transformer learns their meaning.

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
    """CLIP's byte-level tokenizer with merges learnt from `texts`; no text is unknown, known words are few tokens."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    splitter = CLIPTokenizer().backend_tokenizer
    words = Counter(
        word
        for text in sorted(set(texts))
        for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{byte}{WORD_END}" for byte in alphabet)]
    merges = _learn_merges(words, count=vocab_size - len(tokens))
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_tokens)


def _learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding: repeatedly merge the most frequent pair; ties go to the first in alphabetical order.

    (The trainer of the tokenizers library breaks such ties differently in each run.)
    """
    common = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
    spelled = [([*word[:-1], word[-1] + WORD_END], number) for word, number in common]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, number in spelled:
            for pair in pairwise(symbols):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [(_merge(symbols, best), number) for symbols, number in spelled]
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def t5_tokenizer(texts: Sequence[str], vocab_size: int, max_tokens: int) -> Any:
    """A unigram tokenizer over the words of `texts` and their letters; other letters are unknown."""
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
        # CLIP's initial embeddings have a deviation of 0.02, and its hidden states are taken before the last norm. With
        # unit deviation a transformer can use them without training the encoder.
        nn.init.normal_(model.text_model.embeddings.token_embedding.weight)
    return model.requires_grad_(False).eval()


def _t5_encoder(config: dict[str, Any], tokenizer: Any, seed: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5EncoderModel(T5Config(**config, pad_token_id=tokenizer.pad_token_id))
    return model.requires_grad_(False).eval()
