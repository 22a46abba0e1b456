"""The perceptual term by the teacher's features: what it compares, and whom it teaches."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import relative
from tests.tsdsr.training.rig import RandomData, distill_config, gradients, method, student_turn
from tsdsr.config.methods.tsdsr import TSDPhaseConfig
from tsdsr.losses.features import feature_distance
from tsdsr.methods.base import Moment
from tsdsr.methods.student import StudentOutput
from tsdsr.methods.teacher_features import TeacherFeatures

PHASE = TSDPhaseConfig(share=1.0, dasm=False, losses={"teacher_features": 1.0})


def term(made, z_hat, batch) -> torch.Tensor:
    output = StudentOutput(z_hat, batch, Moment(0, 1, PHASE), decode=None, perceptual=None)
    return TeacherFeatures(made.inputs)(output)


def test_the_distance_is_of_directions_a_sample_at_a_time():
    a, b = (torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    both = feature_distance(list(a), list(2 * b))
    unit = [part / part.norm(dim=-1, keepdim=True) for part in (a, b)]
    torch.testing.assert_close(both, (unit[0] - unit[1]).pow(2).sum(-1).mean((0, 2)))
    assert float(feature_distance(list(a), list(3 * a)).max()) < 1e-10


def test_the_photograph_is_at_no_distance_and_the_gradient_leads_towards_it():
    made, batch = method(distill_config()), RandomData().batch([3, 4])
    assert float(term(made, batch.z, batch).max()) == 0
    z_hat = (batch.z + 0.3 * torch.ones_like(batch.z)).requires_grad_(True)
    before = term(made, z_hat, batch)
    (gradient,) = torch.autograd.grad(before.mean(), z_hat)
    assert (term(made, z_hat.detach() - 0.05 * gradient / gradient.abs().max(), batch) < before).all()


def test_the_term_teaches_the_student_alone_whatever_the_checkpointing():
    found = []
    for flag in (False, True):
        made = method(distill_config(gradient_checkpointing=flag))
        student_turn(made, RandomData().batch([3, 4, 5]), PHASE)
        found.append(gradients(made.student))
    assert all(".student." in name for name in found[0])
    assert found[0].keys() == found[1].keys()
    assert max(relative(found[1][name], g) for name, g in found[0].items() if float(g.norm()) > 1e-12) < 1e-5


def test_the_window_moves_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch):
    made, shapes = method(distill_config()), set()
    made.inputs.transformer.pos_embed.register_forward_pre_hook(lambda module, given: shapes.add(given[0].shape[-2:]))
    for step in range(12):
        batch = RandomData().batch([4 * step, 4 * step + 1])
        term(made, batch.z + 0.1, batch)
    assert shapes == {(rows, columns) for rows in (6, 8) for columns in (6, 8)}
