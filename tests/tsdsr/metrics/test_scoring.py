"""Scoring a folder: equal whatever the batches, computed once, and never stopped by one metric or one image."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tsdsr import metrics
from tsdsr.errors import UserError
from tsdsr.metrics import backend, folder_metrics, images, scoring
from tsdsr.metrics.cache import version

CPU = torch.device("cpu")
Save = Callable[[str, np.ndarray], Path]
BASIC = ("psnr", "ssim", "niqe")


def score(folders: tuple[Path, Path], names: tuple[str, ...] = BASIC, **options: object) -> metrics.Scores:
    return metrics.score_folder(*folders, names, device=CPU, **options)  # type: ignore[arg-type]


def test_every_image_gets_the_scores_it_has_alone(folders: tuple[Path, Path]) -> None:
    scores = score(folders, cache=None)
    assert not scores.partial
    for name in BASIC:
        assert list(scores.values[name]) == ["a.png", "b.png", "c.png"]
    item = images.collect(*folders)[0][2]
    pair = [
        torch.from_numpy(picture.load().copy()).permute(2, 0, 1)[None] / 255
        for picture in (item.restored, item.reference)
    ]
    assert scores.values["psnr"]["c.png"] == float(backend.scorer(metrics.METRICS["psnr"], CPU)(*pair))
    assert scores.means()["psnr"] == pytest.approx(np.mean(list(scores.values["psnr"].values())))


def test_the_size_of_batches_changes_nothing(folders: tuple[Path, Path]) -> None:
    one, many = (score(folders, batch_size=size, cache=None).values for size in (1, 8))
    assert one == many


def test_what_is_known_is_not_computed_again(folders: tuple[Path, Path]) -> None:
    first = score(folders, ("psnr", "ssim"))
    assert first.computed == 6
    again = score(folders, ("psnr", "ssim"))
    assert again.computed == 0
    assert again.values == first.values


class StopsAfterOneBatch:
    """As a person who presses Ctrl-C."""

    def __call__(self, batches: Iterable[metrics.ImageBatch]) -> Iterator[metrics.BatchScores]:
        yield metrics.LocalExecutor(CPU).score(next(iter(batches)))
        raise KeyboardInterrupt


def test_an_interruption_keeps_what_there_is_as_partial(folders: tuple[Path, Path]) -> None:
    kept: list[metrics.Scores] = []
    with pytest.raises(KeyboardInterrupt):
        score(folders, (*BASIC, "fid"), batch_size=1, executor=StopsAfterOneBatch(), on_interruption=kept.append)
    (scores,) = kept
    assert scores.partial
    assert scores.names == ["a.png"]
    assert all(list(scores.values[name]) == ["a.png"] for name in BASIC)
    assert "2 of 3 images are not scored" in str(scores.problems[-1])
    assert metrics.summarise(scores, method="m", dataset="d", device=CPU)["partial"]
    assert score(folders).computed == 6  # the rest


def test_adding_a_metric_computes_that_one_alone(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    score(folders, ("psnr", "ssim"))
    built: list[str] = []
    original = backend.scorer

    def scorer(metric: metrics.Metric, *rest: object) -> backend.Score:
        built.append(metric.name)
        return original(metric, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "scorer", scorer)
    added = score(folders, BASIC)
    assert added.computed == 3
    assert built == ["niqe"]


def test_a_changed_image_is_scored_again_alone(folders: tuple[Path, Path], save: Save, photograph: np.ndarray) -> None:
    score(folders)
    save("restored/b.png", photograph)
    assert score(folders).computed == 3
    save("reference/c.png", photograph[10:154, 10:202])
    assert score(folders).computed == 2  # NIQE sees no reference


def test_metric_weights_and_device_make_other_keys() -> None:
    psnr = metrics.METRICS["psnr"]
    keys = {
        version(psnr, {}, CPU),
        version(metrics.METRICS["ssim"], {}, CPU),
        version(psnr, {"net": "0123"}, CPU),
        version(psnr, {"net": "4567"}, CPU),
        version(psnr, {}, torch.device("cuda")),
    }
    assert len(keys) == 5
    assert version(psnr, {}, CPU) == version(psnr, {}, CPU)


def test_the_package_that_carries_niqes_parameters_is_in_its_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [version(metrics.METRICS[name], {}, CPU) for name in ("niqe", "psnr")]

    before, original = keys(), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "basicsr" else original(name))
    assert keys()[0] != before[0]
    assert keys()[1] == before[1]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[]"])
def test_a_damaged_cache_is_computed_anew(folders: tuple[Path, Path], content: bytes) -> None:
    first = score(folders)
    for path in Path(".tsdsr/scores").rglob("*.json"):
        path.write_bytes(content)
    again = score(folders)
    assert again.computed == 9
    assert again.values == first.values


def test_a_cache_that_cannot_be_written_costs_a_line_and_no_score(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    Path(".tsdsr").write_text("a file where the folder should be")
    scores = score(folders, ("psnr", "ssim"))
    assert scores.computed == 6
    assert not scores.partial
    assert caplog.text.count("scores cannot be cached") == 1


def test_each_image_is_decoded_once(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = images._decode

    def decode(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return original(data)

    monkeypatch.setattr(images, "_decode", decode)
    score(folders)
    assert len(decoded) == 6


def test_columns_without_weights_or_references_are_empty_with_a_reason(folders: tuple[Path, Path]) -> None:
    scores = score((folders[0], None), ("psnr", "niqe", "lpips", "musiq"))  # type: ignore[arg-type]
    assert "reference" in scores.reasons["psnr"]
    assert "reference" in scores.reasons["lpips"]
    assert "musiq_koniq" in scores.reasons["musiq"]
    assert set(scores.means()) == {"niqe"}
    assert not scores.partial  # what could be computed was computed for every image


def test_faults_are_named_before_anything_is_computed(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    (folders[1] / "b.png").unlink()
    named: list[str] = []

    class Watching(metrics.LocalExecutor):
        def score(self, batch: metrics.ImageBatch) -> metrics.BatchScores:
            named.extend(record.getMessage() for record in caplog.records)
            return super().score(batch)

    scores = score(folders, executor=Watching(CPU))
    assert any("b.png: has no reference" in message for message in named)
    assert scores.partial
    assert list(scores.values["psnr"]) == ["a.png", "c.png"]


def test_nothing_to_score_is_an_error_that_names_every_fault(folders: tuple[Path, Path], save: Save) -> None:
    for name in "abc":
        save(f"restored/{name}.png", np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"a\.png: is 8x8.*b\.png.*c\.png"):
        score(folders)


def test_a_metric_that_cannot_be_loaded_stops_no_other(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = backend.scorer

    def scorer(metric: metrics.Metric, *rest: object) -> backend.Score:
        if metric.name == "ssim":
            raise UserError("ssim: damaged")
        return original(metric, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "scorer", scorer)
    scores = score(folders)
    assert scores.reasons == {"ssim": "ssim: damaged"}
    assert set(scores.means()) == {"psnr", "niqe"}


def test_a_score_that_is_not_finite_is_a_problem_not_a_number(
    folders: tuple[Path, Path], save: Save, photograph: np.ndarray
) -> None:
    save("restored/a.png", np.full_like(photograph, 128))
    for scores in (score(folders), score(folders)):  # computed, then from the cache
        assert list(scores.values["niqe"]) == ["b.png", "c.png"]
        assert [(problem.name, problem.metric) for problem in scores.problems] == [("a.png", "niqe")]


def test_an_image_too_small_for_one_metric_keeps_its_other_scores(save: Save, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder in ("x", "y"):
        save(f"{folder}/a.png", random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    scores = score((tmp_path / "x", tmp_path / "y"))
    assert set(scores.means()) == {"psnr", "ssim"}
    assert scores.partial


def test_fid_is_a_number_of_the_folder_computed_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def distance(metric: metrics.Metric, items: list[images.Item], *rest: object) -> float:
        seen.append([item.name for item in items])
        return 12.5

    monkeypatch.setattr(scoring.backend, "unavailable", lambda *_: None)
    monkeypatch.setattr(folder_metrics, "distance", distance)
    for _ in range(2):
        scores = score(folders, ("psnr", "fid"))
        assert scores.dataset == {"fid": 12.5}
        assert list(scores.means()) == ["psnr", "fid"]
    assert seen == [["a.png", "b.png", "c.png"]]


def test_fid_needs_two_images(folders: tuple[Path, Path]) -> None:
    items = images.collect(*folders)[0][:1]
    with pytest.raises(UserError, match="at least 2 images"):
        folder_metrics.distance(metrics.METRICS["fid"], items, CPU)


@pytest.mark.parametrize("fault", [ValueError("Imaginary component 1"), float("nan")])
def test_an_fid_that_cannot_be_computed_costs_no_other_score(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fault: ValueError | float
) -> None:
    def model(restored: str, reference: str, **_: object) -> float:
        assert sorted(path.name for path in Path(reference).iterdir()) == ["a.png", "b.png", "c.png"]
        if isinstance(fault, ValueError):
            raise fault
        return fault

    monkeypatch.setattr(scoring.backend, "unavailable", lambda *_: None)
    monkeypatch.setattr(folder_metrics.backend, "build", lambda metric, *rest: model)
    scores = score(folders, ("fid",))
    assert scores.dataset == {}
    assert scores.reasons["fid"].startswith("fid")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu(folders: tuple[Path, Path]) -> None:
    pytest.importorskip("pyiqa")  # `make gpu-check` does without it
    cpu = score(folders, cache=None).values
    gpu = metrics.score_folder(*folders, BASIC, device=torch.device("cuda"), cache=None).values
    for name in BASIC:
        for image in cpu[name]:
            assert gpu[name][image] == pytest.approx(cpu[name][image], abs=1e-3)
