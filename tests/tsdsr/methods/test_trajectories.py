"""psi on the photographs' trajectories, taken beforehand, against psi asked at every step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tsdsr.training.rig import RandomData, distill_config, gradients, method, student_turn
from tsdsr.config import Params, TSDSRConfig
from tsdsr.data.targets import PhotographTargets
from tsdsr.errors import UserError
from tsdsr.methods import tsdsr
from tsdsr.methods.tsdsr import TSDSR
from tsdsr.models.prompt import Prompt

DRAWS = 3
TSD = {"trajectory_draws": DRAWS}


def prepared(directory: Path, config: TSDSRConfig) -> TSDSR:
    """A method whose trajectories of all photographs are on disk."""
    made = method(config)
    batch = RandomData().batch(range(5))

    def compute(name: str) -> torch.Tensor:
        row = batch.names.index(name)
        return made.photograph_trajectories(name, batch.z[row], Prompt(batch.embeds[row], batch.pooled[row]))

    made.trajectories = PhotographTargets(directory, "key")
    made.trajectories.prepare(batch.names, compute)
    return made


@pytest.mark.parametrize(
    "changes",
    [{}, {"dasm": {"random_offset": True}}, {"lambda": 1.0}, {"residual": "noise"}],
    ids=["velocity", "random offset", "VSD", "noise"],
)
def test_the_step_is_the_one_that_asks_psi_anew(tmp_path, monkeypatch, changes):
    config = distill_config(tsd=TSD | changes)
    batch, phase = RandomData().batch(range(4)), config.phases["late"]
    ours = prepared(tmp_path, config)
    found = student_turn(ours, batch, phase)
    gradient = gradients(ours.student)

    real = tsdsr.tsd_loss
    monkeypatch.setattr(tsdsr, "tsd_loss", lambda *args, **options: real(*args, **options | {"teacher_on_z": None}))
    asking = prepared(tmp_path, config)
    wanted = student_turn(asking, batch, phase)
    torch.testing.assert_close(found.terms["tsd"], wanted.terms["tsd"], rtol=1e-5, atol=1e-7)
    for name, value in gradients(asking.student).items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-4, atol=1e-6)


def test_a_photograph_meets_its_own_noises_again_and_no_others(tmp_path):
    config = distill_config(tsd=TSD)
    made, seen = prepared(tmp_path, config), set()
    phase = config.phases["early"]
    for start in range(0, 60, 4):
        batch = RandomData().batch(range(start, start + 4))
        sigma = student_turn(made, batch, phase).sigma
        seen |= {(name, float(value)) for name, value in zip(batch.names, sigma, strict=True)}
    by_name = {name: sum(found == name for found, _ in seen) for name, _ in seen}
    assert len(by_name) == 5
    assert all(count == DRAWS for count in by_name.values())


def test_what_is_there_is_not_computed_again(tmp_path):
    prepared(tmp_path, distill_config(tsd=TSD))
    again = PhotographTargets(tmp_path, "key")
    again.prepare([f"photograph-{i}" for i in range(5)], lambda name: pytest.fail("computed again"))
    computed = []
    other = PhotographTargets(tmp_path, "another key")
    other.prepare(["photograph-0"], lambda name: computed.append(name) or torch.zeros(DRAWS, 1, 1, 1, 1))
    assert computed == ["photograph-0"]


def test_new_crops_have_no_trajectories():
    with pytest.raises(UserError, match="trajectory_draws"):
        Params.load("params.yaml").overlay({"distill": {"tsd": TSD, "augment": {"crop_size": 64}}})
