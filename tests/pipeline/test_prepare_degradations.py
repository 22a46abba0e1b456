from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml
from PIL import Image

from pipeline import prepare_degradations
from pipeline.cluster import runtime
from pipeline.prepare_degradations import prepare
from pipeline.stages import captioning, fan_out, stage
from tests.tsdsr.data.tiny_captioners import save_blip
from tsdsr.config import Params
from tsdsr.data import builders
from tsdsr.data.pairs import PairFolder
from tsdsr.data.photographs import find_photographs
from tsdsr.data.staging import Staging
from tsdsr.data.synthesis import make_pair
from tsdsr.data.tasks import plan
from tsdsr.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve photographs of 60 x 80 px."""
    root = tmp_path / "photographs"
    root.mkdir()
    rng = np.random.default_rng(1)
    for index in range(12):
        save(root / f"picture {index}.png", rng)
    return root


@pytest.fixture
def recipe(params: Params, folder: Path) -> Params:
    crops = {"train": 2, "test": 2}
    data = {"source": str(folder), "crop_size": 32, "test_crop_size": 48, "crops_per_photograph": crops}
    return params.overlay({"data": data, "prepare": {"num_workers": 1}})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, started once for the tests that need it."""
    runtime.start(2)
    yield
    ray.shutdown()


def save(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def run(params: Params, root: Path, name: str = "pairs") -> dict[str, bytes]:
    prepare(params, root / name, root / f"staging of {name}", root / "captions")
    assert not (root / f"staging of {name}").exists()
    return content(root / name)


def manifest(root: Path) -> dict:
    return json.loads((root / "pairs" / "manifest.json").read_text())


def check_sizes(pairs: PairFolder) -> None:
    """Every HQ side is 4 times its LQ side."""
    for name in pairs.ids:
        with Image.open(pairs.hq_path(name)) as hq, Image.open(pairs.lq_path(name)) as lq:
            assert hq.size == (4 * lq.width, 4 * lq.height), name


def test_layout(recipe: Params, tmp_path: Path) -> None:
    run(recipe, tmp_path)
    train, test = PairFolder(tmp_path / "pairs" / "train"), PairFolder(tmp_path / "pairs" / "test")
    assert (len(train), len(test)) == (16, 8)
    check_sizes(train)
    check_sizes(test)
    assert train.caption(train.ids[0]) == "a photograph"
    rows = manifest(tmp_path)["pairs"]
    assert sorted(row["id"] for row in rows) == sorted(train.ids + test.ids)
    assert {row["photograph"] for row in rows if row["split"] == "train"}.isdisjoint(
        row["photograph"] for row in rows if row["split"] == "test"
    )


def test_rows_tell_where_a_crop_was_cut(recipe: Params, folder: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path)
    for row in manifest(tmp_path)["pairs"]:
        with Image.open(folder / row["photograph"]) as photograph:
            left, top, side = (row["box"][key] for key in ("left", "top", "side"))
            crop = np.asarray(photograph)[top : top + side, left : left + side]
        with Image.open(tmp_path / "pairs" / row["split"] / "hq" / f"{row['id']}.png") as hq:
            assert np.array_equal(np.asarray(hq), crop)


def test_pairs_on_disk_are_those_of_the_pure_function(recipe: Params, tmp_path: Path) -> None:
    run(recipe, tmp_path)
    pairs = PairFolder(tmp_path / "pairs" / "train")
    for ref in find_photographs(recipe.data.source):
        if f"{ref.id}-c001" in pairs.ids:
            photograph = np.asarray(Image.open(ref.path))
            lq, hq = make_pair(photograph, ref.id, 1, 0, recipe.seed, recipe)
            assert np.array_equal(np.asarray(Image.open(pairs.lq_path(f"{ref.id}-c001"))), lq)
            assert np.array_equal(np.asarray(Image.open(pairs.hq_path(f"{ref.id}-c001"))), hq)


def test_same_bytes_for_any_number_of_workers_and_order_of_files(
    recipe: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(recipe, tmp_path)
    assert run(recipe.overlay({"prepare": {"num_workers": 4}}), tmp_path, "four") == one
    monkeypatch.setattr(fan_out, "_in_threads", _backwards)
    assert run(recipe, tmp_path, "backwards") == one


def _backwards(tasks: list[builders.Task], params: Params, staging: Staging) -> Iterator[builders.Outcome]:
    for task in tasks[::-1]:
        yield fan_out._build_and_record(task, params, staging)


def test_same_bytes_with_ray(recipe: Params, tmp_path: Path, cluster: None) -> None:
    threads = run(recipe, tmp_path)
    assert run(recipe.overlay({"prepare": {"ray_above": 0, "num_workers": 2}}), tmp_path, "ray") == threads


def test_seed_matters(recipe: Params, tmp_path: Path) -> None:
    one, other = run(recipe, tmp_path), run(recipe.overlay({"seed": 1}), tmp_path, "other")
    assert one.keys() == other.keys()
    changed = {name for name in one if one[name] != other[name]}
    assert {name for name in one if "/lq/" in name} <= changed
    assert not any(name.startswith("test/hq/") for name in changed)


def test_a_new_photograph_leaves_the_others_as_they_are(recipe: Params, folder: Path, tmp_path: Path) -> None:
    before = run(recipe, tmp_path)
    save(folder / "another.png", np.random.default_rng(9))
    after = run(recipe, tmp_path)
    kept = [name for name in before if name in after and name != "manifest.json"]
    assert len(kept) >= len(before) - 6  # one photograph may have changed sides
    assert all(before[name] == after[name] for name in kept)


class Killed(BaseException):
    """Not an error that anything might handle."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch):
    """Let `build` be called so many times; the next call leaves half a file and ends the run."""
    real = builders.build

    def after(calls: int) -> list[str]:
        built: list[str] = []

        def build(task: builders.Task, params: Params, root: Path) -> builders.Outcome:
            if len(built) == calls:
                half = root / task.split / "hq" / ".half-written.png"
                half.parent.mkdir(parents=True, exist_ok=True)
                half.write_bytes(b"\x89PNG")
                raise Killed
            built.append(task.ref.id)
            return real(task, params, root)

        monkeypatch.setattr(fan_out, "build", build)
        return built

    return after


def test_an_interrupted_run_leaves_nothing_and_is_continued(recipe: Params, tmp_path: Path, interrupt) -> None:
    expected = run(recipe, tmp_path, "whole")
    first = interrupt(5)
    with pytest.raises(Killed):
        run(recipe, tmp_path)
    assert not (tmp_path / "pairs").exists()
    second = interrupt(100)
    assert run(recipe, tmp_path) == expected
    assert len(first) == 5
    assert len(second) == 7
    assert not set(first) & set(second)


def test_what_changed_since_the_interruption_is_done_again(
    recipe: Params, folder: Path, tmp_path: Path, interrupt
) -> None:
    first = interrupt(12)
    run(recipe, tmp_path, "order")
    interrupt(5)
    with pytest.raises(Killed):
        run(recipe, tmp_path)
    changed = next(ref for ref in find_photographs(str(folder)) if ref.id == first[0])
    save(changed.path, np.random.default_rng(77))
    (folder / f"{Path(changed.name).stem}.txt").write_text("new words")
    second = interrupt(100)
    result = run(recipe, tmp_path)
    assert len(second) == 8
    assert changed.id in second
    assert result == run(recipe, tmp_path, "whole")


def test_other_params_do_not_continue(recipe: Params, tmp_path: Path, interrupt) -> None:
    interrupt(5)
    with pytest.raises(Killed):
        run(recipe, tmp_path)
    built = interrupt(100)
    run(recipe.overlay({"seed": 1}), tmp_path)
    assert len(built) == 12


def test_bad_photographs_are_listed_with_the_reason(
    recipe: Params, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "empty.jpg").touch()
    Image.new("RGB", (20, 200)).save(folder / "narrow.png")
    run(recipe, tmp_path)
    skipped = manifest(tmp_path)["skipped"]
    assert [row["photograph"] for row in skipped] == ["empty.jpg", "narrow.png"]
    assert skipped[0]["reason"] == "empty file (0 bytes)"
    assert skipped[1]["reason"].startswith("20x200 px, smaller than the t")
    assert "skipped empty.jpg: empty file (0 bytes)" in caplog.text
    assert len(PairFolder(tmp_path / "pairs" / "train")) + len(PairFolder(tmp_path / "pairs" / "test")) == 24


def test_too_many_bad_photographs_fail_and_what_was_there_stays(recipe: Params, folder: Path, tmp_path: Path) -> None:
    before = run(recipe, tmp_path)
    for index in range(4):
        (folder / f"empty {index}.jpg").touch()
    with pytest.raises(UserError, match=r"4 of 16 photographs are unusable, more than prepare\.max_bad_fraction 0\.2"):
        run(recipe, tmp_path)
    assert content(tmp_path / "pairs") == before
    for index in range(4):
        save(folder / f"empty {index}.jpg", np.random.default_rng(index))
    assert len(run(recipe, tmp_path)) > len(before)


def test_a_split_without_photographs_fails(recipe: Params, folder: Path, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "empty.jpg").touch()
    params = recipe.overlay({"data": {"test_source": str(tests)}})
    with pytest.raises(UserError, match="no usable photograph is left for the test split"):
        run(params, tmp_path)


def test_captions_follow_their_photograph(recipe: Params, folder: Path, tmp_path: Path) -> None:
    (folder / "picture 3.txt").write_text("three of them")
    run(recipe, tmp_path)
    texts = {path.stem: path.read_text() for path in (tmp_path / "pairs").glob("*/captions/*.txt")}
    assert {name for name, text in texts.items() if text == "three of them\n"} == {"picture-3-c000", "picture-3-c001"}
    assert {text for name, text in texts.items() if not name.startswith("picture-3-")} == {"a photograph\n"}


def test_corrections_need_no_new_run_and_survive_one(recipe: Params, tmp_path: Path) -> None:
    edits = tmp_path / "corrections"
    edits.mkdir()
    params = recipe.overlay({"captions": {"edits": str(edits)}})
    run(params, tmp_path)
    train = tmp_path / "pairs" / "train"
    name = PairFolder(train).ids[0]
    assert PairFolder(train).caption(name) == "a photograph"
    (edits / f"{name}.txt").write_text("better words")
    for _ in range(2):
        assert PairFolder(train).caption(name) == "better words"
        run(params, tmp_path)


@pytest.fixture
def model_recipe(recipe: Params, tmp_path: Path) -> Params:
    values = {"source": "model", "model": save_blip(tmp_path / "model"), "max_tokens": 5, "batch_size": 5}
    return recipe.overlay({"captions": values})


def captions(root: Path, name: str = "pairs") -> dict[str, str]:
    return {path.stem: path.read_text() for path in (root / name).glob("*/captions/*.txt")}


def test_captions_of_a_model(
    model_recipe: Params, recipe: Params, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty.jpg").touch()
    run(model_recipe, tmp_path)
    made = captions(tmp_path)
    assert len(set(made.values())) > 1
    assert all(made[name] == made[f"{name[:-4]}c000"] for name in made)  # one caption a photograph
    pictures = run(recipe, tmp_path, "without")
    assert all(pictures[name] == (tmp_path / "pairs" / name).read_bytes() for name in pictures if "q/" in name)

    monkeypatch.setattr(captioning, "Captioner", None)  # whoever asks a model now fails
    with pytest.raises(TypeError):
        run(model_recipe, tmp_path, "again")
    (folder / "empty.jpg").unlink()  # the only photograph without a caption
    run(model_recipe, tmp_path, "again")
    assert captions(tmp_path, "again") == made


def test_captions_of_a_pool_of_models(model_recipe: Params, tmp_path: Path, cluster: None) -> None:
    tasks = plan(model_recipe)
    here = captioning.caption_tasks(tasks, model_recipe, tmp_path / "here")
    pooled = captioning.caption_tasks(tasks, model_recipe.overlay({"prepare": {"ray_above": 0}}), tmp_path / "pooled")
    assert len({task.ref.caption for task in here}) > 1
    assert pooled == here


def test_stage_prints_one_line_and_exits_with_2(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["data"]["source"] = str(tmp_path / "nowhere")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("sys.argv", ["prepare", "--params", str(tmp_path / "params.yaml")])
    with pytest.raises(SystemExit) as caught:
        stage.run(prepare_degradations.main)
    assert caught.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: data.source: ")
    assert "nowhere does not exist" in last


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development photographs in ../shared/data")
def test_real_photographs_and_a_real_test_set(recipe: Params, tmp_path: Path) -> None:
    for path in sorted((SHARED / "train_hq").glob("kodak24_*"))[:4]:
        (tmp_path / "some").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "some")
    bench = SHARED / "bench_drealsr"
    data = {"source": str(tmp_path / "some"), "test_source": str(bench), "test_set": "pairs"}
    run(recipe.overlay({"data": data}), tmp_path)
    test = PairFolder(tmp_path / "pairs" / "test")
    assert len(test) == 93
    check_sizes(test)
    with Image.open(next((bench / "hq").glob("*.png"))) as image:
        assert image.size == (512, 512)
