"""Two gloo processes against one, for the same global batch. One pair of processes runs every case."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.multiprocessing import spawn

from tests.tsdsr.methods.test_tadsr import RECIPE as TADSR
from tests.tsdsr.training.rig import all_adapters, distill_config, gradients, trainer
from tsdsr import files
from tsdsr.training.checkpoint import Stopped
from tsdsr.training.stepper import Update
from tsdsr.training.trainer import NonFiniteError
from tsdsr.training.world import World

CASES: dict[str, dict[str, Any]] = {
    "2x2": {},
    "2x1x2": {"accumulation": 2, "gradient_checkpointing": True, "vae_slice": 1},
}


def train(directory: Path, rank: int = 0, **changes: Any) -> None:
    """Two steps; writes this worker's adapters, the first step's gradients and its curve."""
    made = trainer(distill_config(steps=2, log_every=1, **changes), directory / "run", World.current())
    first: dict[str, Tensor] = {}

    def keep_gradients(update: Update) -> None:
        if update.step == 0:
            first.update(gradients(made.method.student))
        note(update)

    note, made.stepper.on_update = made.stepper.on_update, keep_gradients
    made.run()
    save_file(all_adapters(made.method.student), directory / f"adapters-{rank}.safetensors")
    save_file(first, directory / f"gradients-{rank}.safetensors")
    files.write_json(directory / f"history-{rank}.json", made.history)
    files.write_json(directory / f"diagnostics-{rank}.json", made.by_noise.rows(made.world))


def train_tadsr(directory: Path, rank: int = 0) -> None:
    """Two steps of TAD-SR; writes this worker's first gradients, all that it trained, and its curve."""
    made = trainer(distill_config(**{**TADSR, "steps": 2, "log_every": 1}), directory / "run", World.current())
    first: dict[str, Tensor] = {}

    def keep_gradients(update: Update) -> None:
        for group in made.method.groups():
            if update.step == 0 and group.name == update.turn:
                first.update({f"{group.name}/{name}": p.grad.clone() for name, p in group.parameters.items()})
        note(update)

    note, made.stepper.on_update = made.stepper.on_update, keep_gradients
    made.run()
    ended = {f"{group.name}/{name}": p for group in made.method.groups() for name, p in group.parameters.items()}
    ended |= {f"buffers/{name}": value for group in made.method.groups() for name, value in group.buffers.items()}
    for name, tensors in (("gradients", first), ("ended", ended)):
        kept = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(kept, directory / f"{name}-{rank}.safetensors")
    files.write_json(directory / f"history-{rank}.json", made.history)


def break_off(directory: Path, rank: int) -> None:
    """The second worker's loss is not a number."""
    made = trainer(distill_config(), directory / "run", World.current())
    turn = made.method.turns[0]
    run = turn.run

    def poisoned(*args: Any):
        output = run(*args)
        if rank == 1:
            output.terms["lpips"] = torch.tensor(float("nan"))
        return output

    turn.run = poisoned  # type: ignore[method-assign]
    try:
        made.run()
    except NonFiniteError as error:
        files.write_json(directory / f"error-{rank}.json", str(error))


def stop_and_go_on(directory: Path, rank: int) -> None:
    """Only the first worker is asked to stop, and says so at its third step."""
    config, answers = distill_config(log_every=4), iter([False, False, True])
    made = trainer(config, directory / "run", World.current(), stop=lambda: rank == 0 and next(answers))
    try:
        made.run()
    except Stopped as stopped:
        files.write_json(directory / f"stopped-{rank}.json", stopped.step)
    for name in ("run", "whole"):
        made = trainer(config, directory / name, World.current())
        made.run()
        save_file(all_adapters(made.method.student), directory / f"{name}-{rank}.safetensors")
        files.write_json(directory / f"{name}-{rank}.json", made.history)


def work(rank: int, size: int, directory: str) -> None:
    """All that one of the two processes does."""
    torch.set_num_threads(1)
    root = Path(directory)
    distributed.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=size)
    with warnings.catch_warnings(record=True) as said:
        for name, changes in CASES.items():
            train(root / name, rank, **changes)
        train_tadsr(root / "tadsr", rank)
    files.write_json(root / f"warnings-{rank}.json", [str(warning.message) for warning in said])
    break_off(root / "broken", rank)
    stop_and_go_on(root / "stopped", rank)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("workers")
    for name in ("1x4", *CASES, "tadsr", "tadsr-1x4", "broken", "stopped"):
        (root / name).mkdir()
    train(root / "1x4")
    train_tadsr(root / "tadsr-1x4")
    spawn(work, (2, str(root)), nprocs=2)
    return root


def weights(ran: Path, case: str, what: str, rank: int = 0) -> dict[str, Tensor]:
    return load_file(ran / case / f"{what}-{rank}.safetensors")


@pytest.mark.parametrize("what", ["gradients", "adapters"])
@pytest.mark.parametrize("case", CASES)
def test_workers_hold_equal_gradients_and_adapters(ran, case, what):
    first, second = (weights(ran, case, what, rank) for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    if what == "adapters":
        assert {key.split("/")[0] for key in first} == {"student", "vae", "fake_score"}


@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_one_workers_gradients(ran, case):
    """For every trainable. (AdamW's first step is nearly a sign, and would hide a factor.)"""
    found, wanted = weights(ran, case, "gradients"), weights(ran, "1x4", "gradients")
    assert found.keys() == wanted.keys()
    assert {key.split("/")[0] for key in wanted} == {"transformer", "vae"}
    for key, value in wanted.items():
        assert float((found[key] - value).norm()) <= 1e-4 * float(value.norm()) + 1e-7, key


@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_one_workers_losses(ran, case):
    wanted = files.read_json(ran / "1x4" / "history-0.json")
    curves = [files.read_json(ran / case / f"history-{rank}.json") for rank in range(2)]
    assert curves[0] == curves[1]
    assert len(wanted) == 2
    for found, row in zip(curves[0], wanted, strict=True):
        assert found == pytest.approx(row, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_count_one_workers_samples_by_noise_level(ran, case):
    wanted = files.read_json(ran / "1x4" / "diagnostics-0.json")
    assert sum(row["samples"] for row in wanted) == 2 * 4
    for rank in range(2):
        for found, row in zip(files.read_json(ran / case / f"diagnostics-{rank}.json"), wanted, strict=True):
            assert found.pop("phase") == row["phase"]
            assert found == pytest.approx({name: value for name, value in row.items() if name != "phase"}, rel=1e-3)


def test_two_workers_train_tadsr_and_its_discriminator_as_one_does(ran):
    first, second = (weights(ran, "tadsr", "ended", rank) for rank in range(2))
    assert {key.split("/")[0] for key in first} == {"student", "discriminator", "buffers"}
    assert all(torch.equal(second[key], value) for key, value in first.items())
    found, wanted = weights(ran, "tadsr", "gradients"), weights(ran, "tadsr-1x4", "gradients")
    assert {key.split("/")[0] for key in wanted} == {"student", "discriminator"}
    for group in ("student", "discriminator"):
        largest = max(float(value.norm()) for key, value in wanted.items() if key.startswith(group))
        for key in (key for key in wanted if key.startswith(group)):
            assert float((found[key] - wanted[key]).norm()) <= 1e-4 * largest, key
    curves = [files.read_json(ran / place / "history-0.json") for place in ("tadsr", "tadsr-1x4")]
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("rank", range(2))
def test_ddp_warns_of_nothing_that_people_could_mend(ran, rank):
    said = files.read_json(ran / f"warnings-{rank}.json")
    assert [text for text in said if "buffers" in text or "strides" in text] == []


def test_a_worker_that_breaks_stops_all(ran):
    for rank in range(2):
        assert "step 1: not finite: lpips." in files.read_json(ran / "broken" / f"error-{rank}.json")


def test_all_workers_stop_at_the_same_step_and_go_on_to_the_same_end(ran):
    for rank in range(2):
        assert files.read_json(ran / "stopped" / f"stopped-{rank}.json") == 3
        for suffix in ("safetensors", "json"):
            parts = [ran / "stopped" / f"{name}-{rank}.{suffix}" for name in ("run", "whole")]
            assert parts[0].read_bytes() == parts[1].read_bytes()
