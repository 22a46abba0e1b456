from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from tests.caches import write_cache
from tests.tiny import CHANNELS, random_prompt
from tsdsr import seeding
from tsdsr.data.cache import LatentCache, Sample, mirrored
from tsdsr.data.dataset import DistillationData
from tsdsr.data.pairs import PairFolder, write_png
from tsdsr.data.synthesis import degrade_again
from tsdsr.errors import UserError

IDS = [f"photo-c{i:03d}" for i in range(5)]


@pytest.fixture
def pairs(tmp_path) -> PairFolder:
    draw = np.random.default_rng(0)
    for name in IDS:
        for side, size in (("hq", 16), ("lq", 4)):
            write_png(tmp_path / "pairs" / side / f"{name}.png", draw.integers(0, 256, (size, size, 3), dtype=np.uint8))
    return PairFolder(tmp_path / "pairs")


@pytest.fixture
def cache(tmp_path) -> LatentCache:
    return cache_of(tmp_path / "latents", IDS)


def cache_of(directory, ids) -> LatentCache:
    """One latent a pair, stored in another order than the pairs', and two captions."""
    samples = [Sample(name, f"caption {i % 2}", latent(name)) for i, name in enumerate(reversed(ids))]
    texts = ["caption 0", "caption 1", "", "default"]
    prompts = [(text, random_prompt(i)) for i, text in enumerate(texts)]
    return write_cache(directory, samples, prompts, default_prompt="default", shard_rows=2)


def latent(name: str) -> torch.Tensor:
    return torch.randn(CHANNELS, 8, 8, generator=seeding.generator(0, name))


def test_a_row_is_one_pair_with_its_own_latent_and_caption(pairs, cache):
    data = DistillationData(pairs, cache, seed=0)
    positions = list(range(7))
    batch = data.batch(positions)
    assert batch.positions == tuple(positions)
    for row, position in enumerate(positions):
        name = data.name(position)
        assert batch.names[row] == name
        assert torch.equal(batch.z[row], latent(name))
        stored = cache.prompt(cache.ids.index(name))
        assert torch.equal(batch.embeds[row], stored.embeds)
        assert torch.equal(batch.pooled[row], stored.pooled)
        for images, path in ((batch.hq, pairs.hq_path(name)), (batch.lq, pairs.lq_path(name))):
            pixels = np.asarray(Image.open(path)).astype(np.float32)
            torch.testing.assert_close(images[row], torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1))
    assert batch.lq.shape == (7, 3, 4, 4)
    assert batch.hq.shape == (7, 3, 16, 16)
    assert batch.hq.min() >= -1
    assert batch.hq.max() <= 1


def test_an_epoch_is_a_fresh_permutation_of_all_pairs(pairs, cache):
    data = DistillationData(pairs, cache, seed=0)
    epochs = [[data.name(5 * epoch + place) for place in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == IDS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again = DistillationData(pairs, cache, seed=0)
    assert [again.name(p) for p in range(19, -1, -1)] == [name for epoch in epochs for name in epoch][::-1]
    other = DistillationData(pairs, cache, seed=1)
    assert [other.name(p) for p in range(20)] != [data.name(p) for p in range(20)]


def test_what_is_held_out_is_never_drawn(pairs, cache):
    data = DistillationData(pairs, cache, seed=0, held_out={IDS[1], IDS[3]})
    assert len(data) == 3
    assert {data.name(position) for position in range(30)} == {IDS[0], IDS[2], IDS[4]}
    assert data.names == [IDS[0], IDS[2], IDS[4]]


def test_a_batch_is_its_rows_whoever_asks(pairs, cache):
    data = DistillationData(pairs, cache, seed=0)
    whole, halves = data.batch([2, 3, 4, 5]), [data.batch([2, 3]), data.batch([4, 5])]
    for name in ("lq", "hq", "z", "embeds", "pooled"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves]))


def test_prefetching_keeps_the_order_and_reads_ahead(pairs, cache):
    data = DistillationData(pairs, cache, seed=0)
    wanted = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [batch.positions for batch in data.prefetched(wanted)] == [tuple(positions) for positions in wanted]
    assert list(data.prefetched([])) == []
    threads = set()
    read, data.batch = data.batch, lambda positions: threads.add(threading.current_thread().name) or read(positions)
    list(data.prefetched(wanted))
    assert threading.current_thread().name not in threads


@pytest.mark.parametrize("readers", [1, 2])
def test_any_number_of_reading_processes_gives_the_same_bytes(pairs, cache, params, readers):
    settings = {"seed": 0, "crop_size": 8, "flip": False}
    settings["degrade"] = lambda hq, name, epoch: degrade_again(hq, name, epoch, 0, params)
    wanted = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    inside = list(DistillationData(pairs, cache, **settings).prefetched(wanted))
    outside = list(DistillationData(pairs, cache, **settings, readers=readers).prefetched(wanted))
    for one, two in zip(inside, outside, strict=True):
        assert (one.positions, one.names) == (two.positions, two.names)
        for name in ("lq", "hq", "z", "embeds", "pooled"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


@pytest.mark.parametrize("readers", [0, 2])
def test_what_cannot_be_read_stops_the_run_where_it_is_used(pairs, cache, readers):
    data = DistillationData(pairs, cache, seed=0, readers=readers)
    pairs.hq_path(data.name(2)).write_bytes(b"not a picture")
    batches = data.prefetched([[0], [1], [2]])
    assert next(batches).positions == (0,)
    assert next(batches).positions == (1,)
    with pytest.raises(UserError, match=rf"{data.name(2)}.*cannot be read as an image"):
        next(batches)


def test_each_epoch_degrades_anew(pairs, cache):
    seen = []

    def degrade(hq, name, epoch):
        seen.append((name, epoch))
        return hq[::4, ::4] // (epoch + 1)

    data = DistillationData(pairs, cache, seed=0, degrade=degrade)
    first, second = data.batch(range(5)), data.batch(range(5, 10))
    assert seen == [(data.name(p), p // 5) for p in range(10)]
    torch.testing.assert_close(first.lq, first.hq[..., ::4, ::4])
    assert second.lq.mean() < first.lq.mean()
    assert first.positions == (0, 1, 2, 3, 4)


def test_pairs_without_a_latent_are_named(pairs, tmp_path):
    with pytest.raises(UserError, match=f"2 training images lack a cached latent .first: {IDS[3]}.*precompute"):
        DistillationData(pairs, cache_of(tmp_path / "fewer", IDS[:3]), seed=0)


def test_a_cache_may_hold_more_than_the_pairs(pairs, tmp_path):
    data = DistillationData(pairs, cache_of(tmp_path / "more", [*IDS, "another-c000"]), seed=0)
    assert len(data) == 5


def test_a_batch_moves_whole(pairs, cache):
    batch = DistillationData(pairs, cache, seed=0).batch([0])
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in ("lq", "hq", "z", "embeds", "pooled")} == {"meta"}
    assert moved.positions == batch.positions


@pytest.fixture
def aligned(tmp_path) -> DistillationData:
    """Pairs of 32 px whose latents are their HQ image's mean over 8x8 blocks: what is aligned can be recomputed."""
    draw = np.random.default_rng(1)
    samples = []
    for name in IDS:
        hq = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        write_png(tmp_path / "aligned/hq" / f"{name}.png", hq)
        write_png(tmp_path / "aligned/lq" / f"{name}.png", np.ascontiguousarray(hq[::4, ::4]))
        samples += [Sample(name, "", blocks(hq)), Sample(mirrored(name), "", blocks(hq[:, ::-1]))]
    prompts = [(text, random_prompt(i)) for i, text in enumerate(["", "default"])]
    cache = write_cache(tmp_path / "cache", samples, prompts, default_prompt="default")
    return DistillationData(PairFolder(tmp_path / "aligned"), cache, seed=0, crop_size=16, flip=True)


def blocks(pixels: np.ndarray) -> torch.Tensor:
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 127.5 - 1
    return torch.nn.functional.avg_pool2d(image, 8)


def test_crops_and_flips_are_the_same_of_lq_hq_and_latent(aligned):
    batch = aligned.batch(range(40))
    assert batch.hq.shape[-1] == 16
    assert batch.lq.shape[-1] == 4
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(batch.hq, 8), batch.z)
    wholes = [torch.from_numpy(np.array(Image.open(aligned.pairs.hq_path(name)))) for name in IDS]
    seen = set()
    for row, position in enumerate(range(40)):
        whole = wholes[IDS.index(aligned.name(position))].permute(2, 0, 1).float() / 127.5 - 1
        for flip, image in ((False, whole), (True, whole.flip(-1))):
            for top in (0, 8, 16):
                for left in (0, 8, 16):
                    if torch.equal(image[:, top : top + 16, left : left + 16], batch.hq[row]):
                        seen.add((flip, top, left))
                        # every fourth pixel, taken before the mirroring, so at the other end of each four after it
                        first = 3 if flip else 0
                        assert torch.equal(batch.hq[row][:, ::4, first::4], batch.lq[row])
    assert {flip for flip, _, _ in seen} == {False, True}
    assert {top for _, top, _ in seen} == {left for _, _, left in seen} == {0, 8, 16}


def test_a_sample_is_cropped_alike_in_any_batch(aligned):
    assert torch.equal(aligned.batch([3, 9]).hq[1], aligned.batch([9]).hq[0])


def test_a_crop_off_the_grid_is_refused(aligned):
    for size in (12, 48):
        aligned.crop_size = size
        with pytest.raises(UserError, match="multiple of 8"):
            aligned.batch([0])


def test_flips_need_the_mirror_images_latents(pairs, cache):
    with pytest.raises(UserError, match=r"precompute\.flips"):
        DistillationData(pairs, cache, seed=0, flip=True)
