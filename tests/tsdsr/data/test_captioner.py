from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tsdsr.data.tiny_captioners import WORDS, save_blip, save_llava
from tsdsr.config import CaptionsConfig, Params
from tsdsr.data.captioner import Captioner
from tsdsr.errors import UserError


def config(params: Params, model: str, prompt: str | None) -> CaptionsConfig:
    values = {"source": "model", "model": model, "prompt": prompt, "max_tokens": 5}
    return params.overlay({"captions": values}).captions


@pytest.fixture
def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8) for index in range(6)]


@pytest.mark.parametrize(
    ("save", "prompt"),
    [(save_blip, None), (save_blip, "a red"), (save_llava, "the house of")],
    ids=["BLIP", "BLIP, prompted", "LLaVA"],
)
def test_captions_are_words_of_the_picture(
    save: Callable[[Path], str], prompt: str | None, params: Params, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    captioner = Captioner(config(params, save(tmp_path / "model"), prompt), device="cpu")
    captions = captioner(photographs)
    assert len(captions) == 6
    assert len(set(captions)) > 1  # they depend on the picture
    assert all(len(caption.split()) <= 5 and set(caption.split()) <= set(WORDS) for caption in captions), captions
    assert [captioner([photograph])[0] for photograph in photographs] == captions


def test_a_chat_model_must_be_asked(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.prompt: .* needs a prompt"):
        Captioner(config(params, save_llava(tmp_path / "model"), None), device="cpu")


def test_words_to_begin_with_are_not_part_of_the_caption(
    params: Params, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    model = save_blip(tmp_path / "model")
    captioner = Captioner(config(params, model, "A  Red"), device="cpu")
    assert captioner._without_prompt("a red cat") == "cat"
    assert captioner._without_prompt("the cat") == "the cat"
    assert not any(caption.startswith("a red") for caption in captioner(photographs))


def test_a_folder_without_a_model(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.model: .* cannot be loaded as an image-to-text model"):
        Captioner(config(params, str(tmp_path), None), device="cpu")
