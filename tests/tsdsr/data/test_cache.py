from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.caches import write_cache
from tsdsr import seeding
from tsdsr.data import cache as caches
from tsdsr.data.cache import LatentCache, Sample
from tsdsr.errors import UserError
from tsdsr.models.prompt import Prompt

DEFAULT = "a sharp photograph"
CAPTIONS = ["a cat", "a cup"]
C, SIDE, L, D, P = 4, 6, 5, 8, 3


def draw(*shape: int, label: object) -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.generator(0, "cache", label))


def prompts(texts=(DEFAULT, "", *CAPTIONS)) -> list[tuple[str, Prompt]]:
    return [(text, Prompt(draw(L, D, label=f"e{text}"), draw(P, label=f"p{text}"))) for text in texts]


def samples(count: int) -> list[Sample]:
    return [
        Sample(f"photo-{number:03d}", CAPTIONS[number % 2], draw(C, SIDE, SIDE, label=number))
        for number in range(count)
    ]


def write(root: Path, *, count: int = 7, dtype: str = "float32", shard_rows: int = 3) -> Path:
    """The directory of a cache."""
    return write_cache(
        root, samples(count), prompts(), default_prompt=DEFAULT, dtype=dtype, shard_rows=shard_rows
    ).directory


def test_what_is_written_is_read(tmp_path):
    cache = LatentCache.open(write(tmp_path / "cache"))
    wanted, texts = samples(7), dict(prompts())
    assert cache.ids == [sample.id for sample in wanted]
    assert len(cache) == 7
    for number, sample in enumerate(wanted):
        assert cache.latent(number).equal(sample.latent)
        assert cache.prompt(number).embeds.equal(texts[sample.caption].embeds)
        assert cache.prompt(number).pooled.equal(texts[sample.caption].pooled)
    assert cache.default.embeds.equal(texts[DEFAULT].embeds)
    assert cache.null.pooled.equal(texts[""].pooled)
    assert cache.manifest["shapes"] == {"latent": [C, SIDE, SIDE], "embeds": [L, D], "pooled": [P]}


def test_a_restoring_teachers_outputs_are_kept_beside_the_latents(tmp_path):
    assert not LatentCache.open(write(tmp_path / "without")).restores
    wanted = [replace(sample, restored=draw(2, C, SIDE, SIDE, label=f"r{sample.id}")) for sample in samples(7)]
    cache = write_cache(tmp_path / "cache", wanted, prompts(), default_prompt=DEFAULT, shard_rows=3)
    assert cache.restores
    for number, sample in enumerate(wanted):
        assert cache.restored(number).equal(sample.restored)
        assert cache.latent(number).equal(sample.latent)


def test_bfloat16_rounds_once_and_halves_the_size(tmp_path):
    whole, half = (write(tmp_path / name, dtype=name, count=60, shard_rows=100) for name in caches.DTYPES)
    cache = LatentCache.open(half)
    for number, sample in enumerate(samples(60)):
        assert cache.latent(number).dtype == torch.float32
        assert cache.latent(number).equal(sample.latent.bfloat16().float())
        assert cache.prompt(number).embeds.dtype == torch.bfloat16
    sizes = [path.stat().st_size for path in (whole / "latents-00000.arrow", half / "latents-00000.arrow")]
    payload = 60 * C * SIDE * SIDE * 2
    assert sizes[0] - sizes[1] == payload


def test_a_read_row_is_the_readers_own(tmp_path):
    cache = LatentCache.open(write(tmp_path / "cache"))
    cache.latent(0).zero_()
    assert cache.latent(0).abs().sum() > 0


@pytest.mark.parametrize("index", [-1, 7])
def test_there_is_no_row_outside(tmp_path, index):
    cache = LatentCache.open(write(tmp_path / "cache"))
    with pytest.raises(IndexError):
        cache.latent(index)


def test_a_flipped_bit_is_found_and_its_shard_named(tmp_path):
    directory = write(tmp_path / "cache")
    path = directory / "latents-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"latents-00001\.arrow does not match its sha256"):
        LatentCache.open(directory)
    LatentCache.open(directory, verify=False)


def test_a_cut_and_a_missing_shard_are_both_named_without_reading_them(tmp_path):
    directory = write(tmp_path / "cache")
    path = directory / "latents-00002.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    (directory / "prompts-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"latents-00002\.arrow has .* bytes .*; prompts-00000\.arrow is missing"):
        LatentCache.open(directory, verify=False)


def test_a_folder_that_is_no_cache_is_said_so(tmp_path):
    with pytest.raises(UserError, match="not a latent cache"):
        LatentCache.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        LatentCache.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        LatentCache.open(tmp_path)


def read_all(directory: str, results) -> None:
    cache = LatentCache.open(directory)
    results.put([float(cache.latent(number).sum()) for number in range(len(cache))])


def test_many_processes_read_at_once(tmp_path):
    directory = write(tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    readers = [context.Process(target=read_all, args=(str(directory), results)) for _ in range(4)]
    for reader in readers:
        reader.start()
    sums = [results.get(timeout=300) for _ in readers]
    for reader in readers:
        reader.join()
    assert sums == [[float(sample.latent.sum()) for sample in samples(7)]] * 4


def test_an_opened_cache_goes_to_a_worker_as_a_path(tmp_path):
    cache = LatentCache.open(write(tmp_path / "cache"))
    cache.latent(0)
    sent = pickle.dumps(cache._latents)
    assert len(sent) < 2000
    assert pickle.loads(sent).value(0, "id").as_py() == "photo-000"
