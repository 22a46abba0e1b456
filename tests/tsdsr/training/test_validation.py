from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures
from torch import Tensor

from tests.tsdsr.training.rig import distill_config, trainer
from tsdsr.config.distill import ValidationConfig
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.training.validation import ArtefactGuard, Validation, broken_steps, held_out

CONFIG = ValidationConfig(every=2, images=2, max_pattern_rise_db=3.0)
SIDE, PERIOD = 128, 8


class Painter:
    """In a method's place: returns its upsampled input, with a grid of the patches' size painted over it."""

    pattern_period = PERIOD

    def __init__(self, strength: float = 0.0) -> None:
        self.strength = strength

    def restore(self, x_lq: Tensor) -> Tensor:
        grid = torch.zeros(x_lq.shape[-2:])
        grid[::PERIOD] = self.strength
        return x_lq + grid


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairFolder:
    root = tmp_path_factory.mktemp("pairs")
    for name, image in (("a", pictures.astronaut()), ("b", pictures.coffee()), ("c", pictures.chelsea())):
        hq = Image.fromarray(image[40 : 40 + SIDE, 40 : 40 + SIDE])
        for half, picture in (("hq", hq), ("lq", hq.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC))):
            (root / half).mkdir(exist_ok=True)
            picture.save(root / half / f"{name}.png")
    return PairFolder(root)


def guard(method: object, pairs: PairFolder, **options: object) -> ArtefactGuard:
    return ArtefactGuard(
        method,  # type: ignore[arg-type]
        pairs,
        pairs.ids[:2],
        scale=4,
        config=CONFIG,
        device=torch.device("cpu"),
        **options,  # type: ignore[arg-type]
    )


def test_the_set_is_evenly_spaced_and_leaves_something_to_train_on():
    ids = [f"{i:02d}" for i in range(24)]
    kept = held_out(ids, CONFIG.model_copy(update={"images": 4}))
    assert kept == ["03", "09", "15", "21"]
    with pytest.raises(UserError, match=r"distill\.validation\.images: 2 of 2"):
        held_out(ids[:2], CONFIG)


def test_a_look_scores_the_students_own_output(pairs):
    found = guard(Painter(), pairs).look(2, [])
    assert set(found.values) == {"psnr", "niqe", "pattern_db"}
    assert 20 < found.values["psnr"] < 35  # bicubic
    assert found.sheet.shape == (3 * SIDE, 2 * SIDE, 3)
    hq = np.asarray(Image.open(pairs.hq_path(pairs.ids[1])))
    assert np.array_equal(found.sheet[2 * SIDE :, SIDE:], hq)  # the last row, second column


def test_a_grid_is_warned_of_and_its_absence_is_not(pairs, caplog):
    with caplog.at_level(logging.WARNING):
        clean = guard(Painter(), pairs).look(2, [])
        assert not caplog.records
        gridded = guard(Painter(0.1), pairs).look(4, [clean.values])
    assert gridded.values["pattern_db"] > clean.values["pattern_db"] + 3
    assert "step 4" in caplog.text
    assert "patch frequency" in caplog.text


def test_a_pattern_that_was_lower_before_is_a_rise(pairs, caplog):
    """Blurred images have less than the photographs' own energy there: a rise counts from the lowest look."""
    faint = guard(Painter(0.01), pairs).look(4, [])
    with caplog.at_level(logging.WARNING):
        guard(Painter(0.01), pairs).look(4, [{"pattern_db": faint.values["pattern_db"] - 3.1}])
    assert "periodic pattern" in caplog.text


def test_small_images_are_scored_by_what_they_are_large_enough_for(tmp_path):
    for half, side in (("hq", 48), ("lq", 12)):
        (tmp_path / half).mkdir()
        for name in ("a", "b"):
            Image.fromarray(pictures.astronaut()[:side, :side]).save(tmp_path / half / f"{name}.png")
    assert set(guard(Painter(), PairFolder(tmp_path)).look(1, []).values) == {"psnr"}


class Watcher:
    """A guard that notes when it looked and what it saw."""

    def __init__(self) -> None:
        self.looks: list[int] = []
        self.weights: list[Tensor] = []

    def look(self, step: int, earlier: list[dict[str, float]]) -> Validation:
        assert [row["step"] for row in earlier] == self.looks
        self.looks.append(step)
        return Validation({"psnr": float(step)}, np.zeros((1, 1, 3), np.uint8))


def test_the_loop_looks_at_its_steps_and_at_the_end_and_remembers_after_a_kill(tmp_path: Path):
    config = distill_config(steps=5, validation={"every": 2, "images": 1})
    watcher, seen = Watcher(), []
    made = trainer(config, tmp_path, guard=watcher, on_validation=lambda step, found: seen.append(step))
    made.run()
    assert watcher.looks == seen == [2, 4, 5]
    shutil.rmtree(tmp_path / "step-00000005")  # as if it had been killed before
    again = trainer(config, tmp_path, guard=watcher)
    again.resume()
    assert again.validations == made.validations[:2]


def test_the_averaged_weights_are_what_is_looked_at(tmp_path: Path):
    config, watcher = distill_config(steps=2, ema_decay=0.9, validation={"every": 1}), Watcher()
    trained: list[Tensor] = []
    made = trainer(
        config, tmp_path, guard=watcher, on_step=lambda step, values: trained.append(parameter.detach().clone())
    )
    name, parameter = next(iter(made._averaged_parameters.items()))
    original = watcher.look

    def look(step, earlier):
        assert torch.equal(parameter, made.ema[name])
        watcher.weights.append(parameter.detach().clone())
        return original(step, earlier)

    watcher.look = look  # type: ignore[method-assign]
    made.run()
    assert len(watcher.weights) == 2
    assert not torch.equal(watcher.weights[0], trained[0])


def test_broken_steps_are_measured_from_the_best_before() -> None:
    looks = [{"step": 50, "pattern_db": 6.7}, {"step": 100, "pattern_db": -1.0}, {"step": 150, "pattern_db": 2.5}]
    assert broken_steps(looks, 3.0) == [50, 150]  # from 0 dB, then from -1 dB
    assert broken_steps(looks, 8.0) == []
    assert broken_steps([{"step": 50, "psnr": 20.0}], 3.0) == []  # images too small for a score
