from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline import teacher as stage
from pipeline.process.interruption import Interrupted
from pipeline.stages import restorers
from tests.teachers import TEXTS, write_pairs, write_random_teacher
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.inference.opening import SHIPPED
from tsdsr.models import adapters
from tsdsr.models import teacher as teachers
from tsdsr.training.stepper import Stepper


@pytest.fixture
def short(params: Params) -> Params:
    steps = {"vae": {"steps": 20, "batch_size": 2, "crop_size": 32}, "flow": {"steps": 10, "batch_size": 2}}
    return params.overlay({"teacher": {"threads": 1, **steps}})


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs" / "train", count=4, side=32)
    write_pairs(tmp_path / "pairs" / "test", count=2, side=64, seed=1)
    return tmp_path / "pairs"


def make(params: Params, pairs: Path, folder: Path) -> Path:
    stage.make(params, pairs, folder / "teacher", folder / "curve.csv", folder / "metrics.json", folder / "unfinished")
    return folder / "teacher"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_tiny_teacher_is_trained_on_the_gpu(short, pairs, tmp_path):
    torch.cuda.reset_peak_memory_stats()
    make(short, pairs, tmp_path)
    assert torch.cuda.max_memory_allocated() > 2**20
    assert json.loads((tmp_path / "metrics.json").read_text())["vae_psnr_test"] > 15


def test_the_tiny_teacher_is_trained_and_measured_and_follows_the_seed(short, pairs, tmp_path):
    one, two = (make(short, pairs, tmp_path / name) for name in ("one", "two"))
    other = make(short.overlay({"seed": 1}), pairs, tmp_path / "other")
    assert teachers.fingerprint(one) == teachers.fingerprint(two)
    assert teachers.fingerprint(one) != teachers.fingerprint(other)

    report = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert report["vae_psnr_test"] > 15
    assert len(report["flow"]) == 5
    for losses in report["flow"].values():
        assert losses.keys() == {"teacher", "mean", "gaussian"}
        assert losses["gaussian"] < losses["mean"]

    with Image.open(one / "samples.png") as sheet:
        assert sheet.size == (32 * len(report["samples"]), 2 * 32)
        plain, guided = np.split(np.asarray(sheet), 2)
    assert not np.array_equal(plain, guided)
    assert set(report["samples"]) == set(TEXTS[:2])

    with (tmp_path / "one" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30]
    assert rows[0]["flow"] == ""
    assert float(rows[2]["flow"]) > 0

    teacher = teachers.load_teacher(one, text_encoders=True)
    assert teacher.vae.config.scaling_factor != 1.0
    assert teacher.vae.config.shift_factor == 0.0


def test_training_lowers_both_losses(short, pairs, tmp_path):
    longer = short.overlay({"teacher": {"vae": {"steps": 30}, "flow": {"steps": 60}}})
    make(longer, pairs, tmp_path)
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("vae_reconstruction", "flow"):
        values = [float(row[name]) for row in rows if row[name]]
        assert values[-1] < values[0]


def test_an_interrupted_training_leaves_the_old_teacher(short, pairs, tmp_path, monkeypatch):
    before = teachers.fingerprint(write_random_teacher(tmp_path / "teacher"))
    monkeypatch.setattr("pipeline.teacher.train_flow", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(short, pairs, tmp_path)
    assert teachers.fingerprint(tmp_path / "teacher") == before


def test_a_loss_that_is_not_finite_ends_the_training(short, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("tsdsr.methods.teacher.SQUARED", float("inf"))
    with pytest.raises(
        UserError, match=r"autoencoder: step 1: not finite: .*vae_reconstruction.*Lower the learning rate"
    ):
        make(short, pairs, tmp_path)
    assert not (tmp_path / "teacher").exists()


def test_a_finished_teacher_is_pointed_to(params, pairs, tmp_path):
    source = write_random_teacher(tmp_path / "source")
    out = make(params.overlay({"teacher": {"preset": "tiny", "source": str(source)}}), pairs, tmp_path)
    assert [path.name for path in out.iterdir()] == ["teacher.json"]
    loaded, direct = (teachers.load_teacher(path, text_encoders=False) for path in (out, source))
    key = "proj_out.weight"
    assert torch.equal(loaded.transformer.state_dict()[key], direct.transformer.state_dict()[key])


def test_the_shipped_teacher_is_one_of_its_preset():
    assert teachers.inspect(str(SHIPPED / "nano" / "teacher"), teachers.presets.get("nano"))["preset"] == "nano"


def test_fine_tuning_adds_an_adapter_that_lowers_the_loss(params, pairs, tmp_path):
    source = write_random_teacher(tmp_path / "source")
    recipe = {"enabled": True, "rank": 4, "steps": 20, "batch_size": 4, "learning_rate": 0.01}
    tuned = params.overlay({"teacher": {"preset": "tiny", "source": str(source), "finetune": recipe}})
    out = make(tuned, pairs, tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["teacher.json", "teacher.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curve.csv",
        "metrics.json",
        "pairs",
        "source",
        "teacher",
    ]

    keys = load_file(out / "teacher.safetensors")
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in keys
    assert len(keys) == 2 * 4 * 7  # lora_A and lora_B on seven projections of four blocks
    assert all(value.shape[0] == 4 for key, value in keys.items() if ".lora_A." in key)
    loaded = teachers.load_teacher(out, text_encoders=False)
    assert adapters.has_adapter(loaded.transformer, adapters.TEACHER)

    report = json.loads((tmp_path / "metrics.json").read_text())
    mean = {key: sum(bin["teacher"] for bin in report[key].values()) for key in ("finetune_before", "finetune_after")}
    assert mean["finetune_after"] < mean["finetune_before"]
    with (tmp_path / "curve.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["finetune"]] == ["10", "20"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"preset": "sd3-medium"}, "needs a hub id or a local directory"),
        ({"source": "./somewhere/else"}, "neither a directory nor a hub id"),
        ({"preset": "other"}, "unknown preset"),
    ],
)
def test_a_preset_and_a_source_that_do_not_fit(params, pairs, tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        make(params.overlay({"teacher": changes}), pairs, tmp_path)


class KilledError(Exception):
    """Stands for a SIGKILL."""


def kill(*args: object) -> None:
    raise KilledError


def content(folder: Path) -> dict[str, bytes]:
    """The stage's outputs; whatever else were left would be among them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def after(step: int, end: Callable[[], None]) -> Iterator[list[int]]:
    """`end` comes when so many steps, of whatever trainings, are done; yields those that are."""
    done: list[int] = []
    take = Stepper.take

    def counted(*args: Any) -> None:
        take(*args)
        done.append(len(done) + 1)
        if len(done) == step:
            end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "take", counted)
        yield done


def test_killed_and_interrupted_it_goes_on_to_the_same_bytes(short, pairs, tmp_path, monkeypatch):
    """Before the first checkpoint, in each of three trainings (20, 10 and 12 steps), and as the results are written."""
    recipe = {"enabled": True, "rank": 4, "steps": 12, "batch_size": 2, "learning_rate": 0.01}
    tuned = short.overlay({"teacher": {"finetune": recipe, "checkpoint": {"every": 4}}})
    make(tuned, pairs, tmp_path / "undisturbed")
    folder = tmp_path / "disturbed"
    for step in (3, 11):
        with after(step, kill), pytest.raises(KilledError):
            make(tuned, pairs, folder)
    with after(14, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(Interrupted) as caught:
        make(tuned, pairs, folder)
    assert caught.value.code == 75
    assert "transformer: stopped after step 2 of 10; its checkpoint is saved" in str(caught.value)
    with after(8 + 6, kill), pytest.raises(KilledError):
        make(tuned, pairs, folder)
    with after(3, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted) as caught:
        make(tuned, pairs, folder)
    assert caught.value.code == 130
    assert "fine-tuning: stopped after step 7 of 12" in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"unfinished"}
    with after(0, kill) as done, monkeypatch.context() as patch:
        patch.setattr(stage, "_write_curve", kill)
        with pytest.raises(KilledError):
            make(tuned, pairs, folder)
    assert len(done) == 5
    shutil.rmtree(folder / "teacher")  # as DVC does to the outputs of a stage that did not come to its end
    with after(0, kill) as done:
        make(tuned, pairs, folder)
    assert done == []
    assert content(folder) == content(tmp_path / "undisturbed")


def test_checkpoints_of_other_inputs_are_not_gone_on_from(short, pairs, tmp_path):
    short = short.overlay({"teacher": {"checkpoint": {"every": 4}}})
    with after(11, kill), pytest.raises(KilledError):
        make(short, pairs, tmp_path / "disturbed")
    captions = sorted((pairs / "train/captions").iterdir())
    captions[0].write_text("a cat, awake\n")
    for name in ("disturbed", "anew"):
        make(short, pairs, tmp_path / name)
    assert content(tmp_path / "disturbed") == content(tmp_path / "anew")


def test_a_restorer_is_trained_beside_the_teacher_and_restores(params, pairs, tmp_path):
    source = write_random_teacher(tmp_path / "source")
    recipe = {"enabled": True, "rank": 4, "steps": 20, "batch_size": 4, "learning_rate": 0.01, "sampling_steps": 3}
    restoring = params.overlay({"teacher": {"preset": "tiny", "source": str(source), "restorer": recipe}})
    out, again = (make(restoring, pairs, tmp_path / name) for name in ("one", "two"))
    assert sorted(path.name for path in out.iterdir()) == ["restorer.safetensors", "teacher.json"]
    assert teachers.fingerprint(out) == teachers.fingerprint(again)

    trained = load_file(out / "restorer.safetensors")
    assert float(trained["lq_projection.weight"].abs().max()) > 0
    with (tmp_path / "one" / "curve.csv").open() as file:
        losses = [float(row["restorer"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]

    restore = restorers.restoring_teacher(restoring, out)
    lq = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)  # sides that are no whole latents
    restored = restore(lq)
    assert restored.shape == (36, 56, 3)
    assert restored.dtype == np.uint8
    assert np.array_equal(restore(lq), restored)
    with pytest.raises(UserError, match=r"source/restorer\.safetensors: no such file"):
        restorers.restoring_teacher(restoring, source)(lq)
