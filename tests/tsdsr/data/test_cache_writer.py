"""Writing a cache: shards, their record, and going on where another writer ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.caches import write_cache
from tests.tsdsr.data.test_cache import CAPTIONS, DEFAULT, SIDE, C, draw, prompts, samples
from tsdsr.data import cache_writer
from tsdsr.data.cache import LatentCache, Sample
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.errors import UserError


class KilledError(Exception):
    """Stands for a SIGKILL."""


def write(
    root: Path, *, key: str = "k", count: int = 7, shard_rows: int = 3, until: tuple[str, int] | None = None
) -> LatentCache:
    """Write, or go on writing; killed when it is to compute the prompt or sample of the number that `until` says."""

    def computed(kind: str, entries: list[Any], first: int) -> Iterator[Any]:
        for number in range(first, len(entries)):
            if (kind, number) == until:
                raise KilledError
            yield entries[number]

    writer = CacheWriter(root, key=key, dtype="float32", shard_rows=shard_rows)
    writer.add_prompts(computed("prompt", prompts(), writer.num_prompts))
    writer.add_samples(computed("sample", samples(count), writer.num_samples))
    return LatentCache.open(writer.finish(default_prompt=DEFAULT, origin={"teacher": "abc"}))


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "cache").iterdir()}


def test_each_distinct_caption_is_stored_once(tmp_path):
    cache = write(tmp_path, count=40)
    assert sum(shard["rows"] for shard in cache.manifest["shards"]["prompts"]) == 4
    assert [cache.texts[cache.prompt_index(number)] for number in range(4)] == CAPTIONS * 2


def test_shards_hold_at_most_their_rows_and_the_manifest_says_what_they_are_of(tmp_path):
    cache = write(tmp_path)
    assert [shard["rows"] for shard in cache.manifest["shards"]["latents"]] == [3, 3, 1]
    assert cache.manifest["origin"] == {"teacher": "abc"}


def test_record_batches_bound_the_writer_and_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "RECORD_BATCH_BYTES", 2 * C * SIDE * SIDE * 4)
    cache = write(tmp_path, shard_rows=5)
    for number, sample in enumerate(samples(7)):
        assert cache.latent(number).equal(sample.latent)


@pytest.mark.parametrize(
    "kills",
    [[("prompt", 0)], [("prompt", 2), ("prompt", 3), ("sample", 0)], [("sample", 4), ("sample", 3), ("sample", 6)]],
)
def test_a_writer_that_goes_on_ends_with_the_same_bytes(tmp_path, kills):
    write(tmp_path / "whole")
    for until in kills:
        with pytest.raises(KilledError):
            write(tmp_path / "killed", until=until)
    write(tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_finished_shards_are_not_computed_again(tmp_path):
    with pytest.raises(KilledError):
        write(tmp_path, until=("sample", 5))
    writer = CacheWriter(tmp_path, key="k", dtype="float32", shard_rows=3)
    assert (writer.num_prompts, writer.num_samples) == (4, 3)
    write(tmp_path)
    writer = CacheWriter(tmp_path, key="k", dtype="float32", shard_rows=3)
    assert (writer.num_prompts, writer.num_samples) == (4, 7)


def test_shards_of_another_key_are_removed(tmp_path):
    with pytest.raises(KilledError):
        write(tmp_path, until=("sample", 5))
    writer = CacheWriter(tmp_path, key="another", dtype="float32", shard_rows=3)
    assert (writer.num_prompts, writer.num_samples) == (0, 0)
    assert content(tmp_path) == {}


@pytest.mark.parametrize("damaged", ["latents-00001.arrow", "latents-00000.arrow", "prompts-00000.arrow"])
def test_from_a_damaged_shard_on_it_is_written_again(tmp_path, damaged, caplog):
    write(tmp_path / "whole")
    write(tmp_path / "damaged")
    path = tmp_path / "damaged/cache" / damaged
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)
    write(tmp_path / "damaged")
    assert f"{damaged} does not match its sha256" in caplog.text
    assert content(tmp_path / "damaged") == content(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "{", json.dumps({"key": "another"})])
def test_a_record_that_says_nothing_is_a_start(tmp_path, text):
    write(tmp_path)
    (tmp_path / "record.json").write_text(text)
    assert len(write(tmp_path)) == 7


def odd(shape: tuple[int, ...]) -> Sample:
    return Sample("odd", "a cat", draw(*shape, label=0))


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ([*samples(2), samples(1)[0]], "photo-000 comes twice"),
        ([Sample("a", "unheard of", torch.zeros(C, SIDE, SIDE))], "'unheard of' is not among"),
        ([*samples(2), odd((C, SIDE, 3))], "odd: latent has shape"),
        ([], "no latents"),
    ],
)
def test_samples_that_do_not_fit(tmp_path, added, reason):
    with pytest.raises(ValueError, match=reason):
        write_cache(tmp_path, added, prompts(), default_prompt=DEFAULT)
    with pytest.raises(UserError, match="not a latent cache"):
        LatentCache.open(tmp_path / "cache")


@pytest.mark.parametrize(
    ("added", "reason"), [(prompts((DEFAULT, *CAPTIONS)), "prompt '' is not among"), (prompts() * 2, "comes twice")]
)
def test_prompts_that_do_not_fit(tmp_path, added, reason):
    with pytest.raises(ValueError, match=reason):
        write_cache(tmp_path, samples(2), added, default_prompt=DEFAULT)
