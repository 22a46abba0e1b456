from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tsdsr.config import CaptionsConfig, Params
from tsdsr.data.captions import SOURCES, caption_of, read_caption
from tsdsr.data.photographs import PhotographRef
from tsdsr.data.reading import BadPhotograph


@pytest.fixture
def ref(tmp_path: Path) -> PhotographRef:
    return PhotographRef("a", tmp_path / "a.jpg", "a.jpg", caption_file=tmp_path / "a.txt")


def config(params: Params, source: str) -> CaptionsConfig:
    return params.overlay({"captions": {"source": source, "constant": "a thing", "model": "x/y"}}).captions


def test_every_source_of_the_params_is_there() -> None:
    assert SOURCES.keys() == set(get_args(CaptionsConfig.model_fields["source"].annotation))


def test_sidecar_is_one_line_whatever_wrote_it(ref: PhotographRef, params: Params) -> None:
    assert ref.caption_file
    ref.caption_file.write_bytes("\ufeffa café,\r\n  at night \n".encode())
    assert caption_of(ref, config(params, "sidecar")) == "a café, at night"


def test_without_a_sidecar_the_constant_speaks(ref: PhotographRef, params: Params) -> None:
    assert caption_of(ref, config(params, "sidecar")) == "a thing"
    assert ref.caption_file
    ref.caption_file.write_text(" \n")
    assert caption_of(ref, config(params, "sidecar")) == "a thing"


def test_constant_passes_sidecars_over(ref: PhotographRef, params: Params) -> None:
    assert ref.caption_file
    ref.caption_file.write_text("words")
    assert caption_of(ref, config(params, "constant")) == "a thing"


def test_a_source_may_carry_captions_itself(params: Params) -> None:
    ref = PhotographRef("a", Path("a.jpg"), "a.jpg", caption="its own")
    assert caption_of(ref, config(params, "sidecar")) == "its own"
    assert caption_of(ref, config(params, "model")) == "its own"


def test_a_sidecar_that_is_no_text_is_named(ref: PhotographRef, params: Params) -> None:
    assert ref.caption_file
    ref.caption_file.write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(BadPhotograph, match=r"a\.txt cannot be read as UTF-8 text"):
        caption_of(ref, config(params, "sidecar"))


def test_missing_file_is_no_caption(tmp_path: Path) -> None:
    assert read_caption(tmp_path / "none.txt") == ""
