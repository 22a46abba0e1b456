"""The cosines of TSM, VSD and TSD with z_hat - z, on a student and a teacher of a test's size."""

from __future__ import annotations

import pytest
import torch

from tests.tsdsr.training.rig import RandomData, distill_config, method
from tsdsr.methods.base import MethodInputs
from tsdsr.training import directions
from tsdsr.training.directions import _fit_fake_score, _mean_cosine, _student_outputs


def test_a_teacher_that_returns_its_input_points_away_in_velocity_form_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """v = noise - what was noised: the residual is -(z_hat - z) as velocities, and nothing as noise predictions."""
    made = method(distill_config())
    given = [next(_student_outputs(made, RandomData(), 2, 4))]
    batch, z_hat = given[0]
    noise = {}

    def keep(inputs, z, generators):
        noise["is"] = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
        return noise["is"]

    def returns_its_input(*unused):
        return lambda z_t, timestep: torch.cat([noise["is"] - z_hat, noise["is"] - batch.z])[: len(z_t)]

    monkeypatch.setattr(MethodInputs, "noise_like", keep)
    monkeypatch.setattr(directions, "teacher_velocity", returns_its_input)
    assert _mean_cosine(made, given, "velocity", 100.0, 0.0) == pytest.approx(-1.0, abs=1e-5)
    assert abs(_mean_cosine(made, given, "noise", 100.0, 0.0)) < 0.2  # rounding alone


def test_fitting_moves_the_fake_score_and_nothing_else() -> None:
    made = method(distill_config())
    phi = made.groups()[1].parameters
    before = {name: p.detach().clone() for name, p in phi.items()}
    own = {name: p.detach().clone() for name, p in made.groups()[0].parameters.items()}
    _fit_fake_score(made, _student_outputs(made, RandomData(), 2, 4), 2)
    assert any(not torch.equal(p, before[name]) for name, p in phi.items())
    assert all(torch.equal(p, own[name]) for name, p in made.groups()[0].parameters.items())


def test_a_recipe_without_the_score_has_directions_too() -> None:
    """Its run does not train the fake score, and the question about teacher and student is the same."""
    phases = {"all": {"share": 1.0, "dasm": False, "losses": {"latent_mse": 1.0}}}
    made = method(distill_config(phases=phases))
    assert made.fake_score not in made.turns
    outputs = _student_outputs(made, RandomData(), 2, 4)
    before = {name: p.detach().clone() for name, p in made.fake_score.groups[0].parameters.items()}
    _fit_fake_score(made, outputs, 1)
    assert any(not torch.equal(p, before[name]) for name, p in made.fake_score.groups[0].parameters.items())
    assert -1 <= _mean_cosine(made, [next(outputs)], "noise", 100.0, 1.0) <= 1
