from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pipeline import precompute as stage
from tests.teachers import write_pairs, write_random_teacher
from tsdsr import files, seeding
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache, mirrored
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.flow import gaussian_like
from tsdsr.models import restoring, text
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.models.student import upsample


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return write_random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def restorer(teacher, tmp_path_factory) -> Path:
    """The teacher, as one that restores: what it makes follows from z_L."""
    directory = tmp_path_factory.mktemp("restorer") / "teacher"
    shutil.copytree(teacher, directory)
    transformer = teachers.load_teacher(directory, text_encoders=False).transformer
    restoring.attach(transformer, rank=2, seed=0, trainable=True)
    torch.nn.init.constant_(transformer.get_submodule(restoring.PROJECTION).weight, 0.1)
    restoring.save(transformer, directory / restoring.FILE)
    return directory


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", count=5, side=32)


@pytest.fixture
def small(params: Params) -> Params:
    return params.overlay(
        {
            "precompute": {"batch_size": 2, "shard_rows": 3, "flips": False},
            "prompts": {"default": "a sharp photo"},
            "teacher": {"restorer": {"sampling_steps": 2}},
        }
    )


def test_the_cache_holds_what_the_teacher_makes_of_the_pairs(small, pairs, teacher, tmp_path):
    stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    cache, folder = LatentCache.open(tmp_path / "latents"), PairFolder(pairs)
    loaded = teachers.load_teacher(teacher, text_encoders=True)
    codec = LatentCodec(loaded.vae, use_shift=False)
    assert cache.ids == folder.ids
    for number, name in enumerate(folder.ids):
        with torch.no_grad():
            wanted = codec.encode(read_image(folder.hq_path(name))[None])[0]
        torch.testing.assert_close(cache.latent(number), wanted, rtol=1e-4, atol=1e-5)
        (prompt,) = text.encode_prompts(loaded.text, [folder.caption(name)])
        torch.testing.assert_close(cache.prompt(number).embeds, prompt.embeds)
    default, null = text.encode_prompts(loaded.text, ["a sharp photo", ""])
    torch.testing.assert_close(cache.default.pooled, default.pooled)
    torch.testing.assert_close(cache.null.embeds, null.embeds)
    assert cache.manifest["origin"] == {
        "teacher": teachers.fingerprint(teacher),
        "use_shift": False,
        "restoring_steps": None,
    }
    assert len(cache.texts) == 4
    assert not cache.restores


def test_mirror_images_have_latents_of_their_own(small, pairs, teacher, tmp_path):
    stage.precompute(
        small.overlay({"precompute": {"flips": True}}), pairs, teacher, tmp_path / "latents", tmp_path / "growing"
    )
    cache, folder = LatentCache.open(tmp_path / "latents"), PairFolder(pairs)
    assert len(cache) == 2 * len(folder)
    codec = LatentCodec(teachers.load_teacher(teacher, text_encoders=False).vae, use_shift=False)
    name = folder.ids[1]
    with torch.no_grad():
        wanted = codec.encode(read_image(folder.hq_path(name))[None].flip(-1))[0]
    found = cache.latent(cache.ids.index(mirrored(name)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_teacher_that_restores_is_sampled_for_every_low_quality_image_and_its_mirror_image(
    small, pairs, restorer, tmp_path
):
    small = small.overlay({"precompute": {"flips": True}, "teacher": {"restorer": {"enabled": True}}})
    stage.precompute(small, pairs, restorer, tmp_path / "latents", tmp_path / "growing")
    cache, folder = LatentCache.open(tmp_path / "latents"), PairFolder(pairs)
    loaded = teachers.load_teacher(restorer, text_encoders=False)
    restoring.load(loaded.transformer, restorer)
    sampler = restoring.RestoringTeacher(loaded.transformer, cache.default)
    for number, name in enumerate(cache.ids):
        lq = read_image(folder.lq_path(name.removesuffix("~mirrored")))[None]
        with torch.no_grad():
            x_lq = upsample(lq.flip(-1) if name.endswith("~mirrored") else lq, 4)
            z_lq = LatentCodec(loaded.vae, use_shift=False).encode(x_lq)
            noise = gaussian_like(z_lq, [seeding.generator(0, "restorer", name)])
            wanted = torch.cat([sampler.restore(z_lq, noise, loaded.schedule, 2), z_lq])
        torch.testing.assert_close(cache.restored(number), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changed", ["photograph", "steps"])
def test_outputs_of_other_images_or_of_another_number_of_steps_are_made_anew(small, pairs, restorer, tmp_path, changed):
    small = small.overlay({"teacher": {"restorer": {"enabled": True}}})
    killed_at(4, small, pairs, restorer, tmp_path)
    if changed == "photograph":
        first, other = (PairFolder(pairs).lq_path(name) for name in PairFolder(pairs).ids[:2])
        shutil.copyfile(other, first)
    else:
        small = small.overlay({"teacher": {"restorer": {"sampling_steps": 3}}})
    for name, growing in (("latents", "growing"), ("anew", "elsewhere")):
        stage.precompute(small, pairs, restorer, tmp_path / name, tmp_path / growing)
    assert content(tmp_path / "latents") == content(tmp_path / "anew")


def test_equal_input_gives_equal_bytes(small, pairs, teacher, tmp_path):
    for name in ("one", "two"):
        stage.precompute(small, pairs, teacher, tmp_path / name, tmp_path / "growing")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_several_devices_give_the_bytes_of_one(small, pairs, restorer, tmp_path, monkeypatch):
    small = small.overlay({"precompute": {"flips": True}, "teacher": {"restorer": {"enabled": True}}})
    stage.precompute(small, pairs, restorer, tmp_path / "one", tmp_path / "growing")
    monkeypatch.setattr(stage.device, "every", lambda: [torch.device("cpu")] * 3)
    stage.precompute(small, pairs, restorer, tmp_path / "three", tmp_path / "growing")
    assert content(tmp_path / "three") == content(tmp_path / "one")


def test_an_edited_caption_reaches_the_cache(small, pairs, teacher, tmp_path):
    name = PairFolder(pairs).ids[0]
    (pairs / "captions" / f"{name}.txt").write_text("a cat, awake\n")
    stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    cache = LatentCache.open(tmp_path / "latents")
    assert cache.texts[cache.prompt_index(0)] == "a cat, awake"


def test_an_unreadable_photograph_is_named_and_the_old_cache_stays(small, pairs, teacher, tmp_path):
    stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    path = PairFolder(pairs).hq_path(PairFolder(pairs).ids[-1])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    assert len(LatentCache.open(tmp_path / "latents")) == 5


def test_a_missing_teacher_is_named(small, pairs, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "teacher")
    shutil.rmtree(tmp_path / "teacher" / "vae")
    with pytest.raises(UserError, match="cannot load the teacher"):
        stage.precompute(small, pairs, tmp_path / "teacher", tmp_path / "latents", tmp_path / "growing")
    assert not (tmp_path / "latents").exists()


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The rows of each batch that the encoder has seen."""
    encode, seen = LatentCodec.encode, []

    def counted(codec: LatentCodec, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return encode(codec, images)

    monkeypatch.setattr(LatentCodec, "encode", counted)
    return seen


class KilledError(Exception):
    """Stands for a SIGKILL."""


def killed(*args: object) -> None:
    raise KilledError


def killed_at(photograph: int, small: Params, pairs: Path, teacher: Path, tmp_path: Path) -> None:
    """Run, and be killed when it reads the photograph of this number."""
    wanted = PairFolder(pairs).hq_path(PairFolder(pairs).ids[photograph])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "read_image", lambda path: killed() if path == wanted else read_image(path))
        with pytest.raises(KilledError):
            stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")


@pytest.mark.parametrize(("flips", "restores"), [(False, False), (True, False), (True, True)])
def test_a_killed_run_is_gone_on_with_to_the_same_bytes(
    small, pairs, teacher, restorer, tmp_path, monkeypatch, encoded, flips, restores
):
    """Shards of three rows end within batches of two photographs: a batch that has begun is encoded whole again."""
    small = small.overlay({"precompute": {"flips": flips}, "teacher": {"restorer": {"enabled": restores}}})
    teacher = restorer if restores else teacher
    stage.precompute(small, pairs, teacher, tmp_path / "whole", tmp_path / "growing")
    batches = len(encoded)
    killed_at(2, small, pairs, teacher, tmp_path)
    killed_at(4, small, pairs, teacher, tmp_path)
    encoded.clear()
    monkeypatch.setattr(text, "encode_prompts", killed)
    stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    assert content(tmp_path / "latents") == content(tmp_path / "whole")
    assert len(encoded) < batches
    assert not (tmp_path / "growing").exists()


def test_a_run_killed_as_it_publishes_computes_nothing_again(small, pairs, teacher, tmp_path, monkeypatch, encoded):
    put = files.put_in_place
    monkeypatch.setattr(files, "put_in_place", lambda *paths: killed(put(*paths)))
    with pytest.raises(KilledError):
        stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    monkeypatch.setattr(files, "put_in_place", put)
    before = content(tmp_path / "latents")
    shutil.rmtree(tmp_path / "latents")  # as DVC does to the outputs of a stage that did not come to its end
    encoded.clear()
    stage.precompute(small, pairs, teacher, tmp_path / "latents", tmp_path / "growing")
    assert content(tmp_path / "latents") == before
    assert encoded == []


@pytest.mark.parametrize("changed", ["photograph", "caption", "params"])
def test_what_is_left_of_other_inputs_is_not_used(small, pairs, teacher, tmp_path, changed):
    killed_at(4, small, pairs, teacher, tmp_path)
    first = PairFolder(pairs).ids[0]
    if changed == "photograph":
        shutil.copyfile(PairFolder(pairs).hq_path(PairFolder(pairs).ids[1]), PairFolder(pairs).hq_path(first))
    elif changed == "caption":
        (pairs / "captions" / f"{first}.txt").write_text("a cat, awake\n")
    else:
        small = small.overlay({"precompute": {"shard_rows": 2}})
    for name, growing in (("latents", "growing"), ("anew", "elsewhere")):
        stage.precompute(small, pairs, teacher, tmp_path / name, tmp_path / growing)
    assert content(tmp_path / "latents") == content(tmp_path / "anew")
