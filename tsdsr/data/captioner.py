"""Captions from an image-to-text model, by Hugging Face id or local directory.

It supports image-to-text models (BLIP, GIT, ViT-GPT2; `captions.prompt` may be null, the beginning of the caption or a
task word) and chat models (LLaVA, SmolVLM, Qwen-VL; they need a prompt).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tsdsr import compat
from tsdsr.config import CaptionsConfig
from tsdsr.device import pick
from tsdsr.errors import UserError

log = logging.getLogger(__name__)


class Captioner:
    """A loaded model. It decodes greedily, so that equal photographs get equal captions.

    Args:
        config: `model`, `prompt` and `max_tokens` are read.
        device: by default a GPU if there is one.

    Raises:
        UserError: the model cannot be loaded, or needs a prompt and has none.
    """

    def __init__(self, config: CaptionsConfig, device: str | None = None) -> None:
        compat.apply()
        self.config = config
        self.device = pick(device or "auto")
        self.processor, self.model = _load(str(config.model), self.device)
        self.is_chat = bool(getattr(self.processor, "chat_template", None))
        if self.is_chat and not config.prompt:
            raise UserError(
                f"captions.prompt: {config.model} is a chat model and needs a prompt; for example "
                "`prompt: Describe this photograph in one sentence.`"
            )
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # generated tokens follow the right end of a row
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def __call__(self, photographs: Sequence[np.ndarray]) -> list[str]:
        """One caption per photograph, as a single line.

        Args:
            photographs: uint8 sRGB, each (H, W, 3), of any size.
        """
        images = [Image.fromarray(photograph) for photograph in photographs]
        inputs = self._inputs(images).to(self.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.config.max_tokens)
        if self.is_chat:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # without the prompt
        texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [self._without_prompt(" ".join(text.split())) for text in texts]

    def _without_prompt(self, text: str) -> str:
        """Remove the prompt from the caption; some image-to-text models repeat it."""
        prompt = " ".join((self.config.prompt or "").split())
        return text[len(prompt) :].strip() if text.casefold().startswith(prompt.casefold()) else text

    def _inputs(self, images: list[Image.Image]) -> Any:
        if not self.is_chat:
            words = {"text": [self.config.prompt] * len(images), "padding": True} if self.config.prompt else {}
            return self.processor(images=images, return_tensors="pt", **words)
        chats = [
            [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": image}, {"type": "text", "text": self.config.prompt}],
                }
            ]
            for image in images
        ]
        return self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def _load(source: str, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    log.info("loading the captioning model %s on %s", source, device)
    dtype = "auto" if device.type == "cuda" else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(source)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"captions.model: {source} cannot be loaded as an image-to-text model ({reason}); give the id of one on "
            "the Hugging Face hub, or a local directory that holds one"
        ) from None
    return processor, model.to(device).eval()
