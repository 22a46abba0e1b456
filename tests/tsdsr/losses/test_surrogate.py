from __future__ import annotations

import torch

from tsdsr import seeding
from tsdsr.losses import score_surrogate


def test_its_gradient_is_the_direction_and_nothing_else_receives_one():
    draw = seeding.generator(0, "surrogate")
    z_hat, direction = (torch.randn(3, 2, 4, 4, generator=draw, requires_grad=True) for _ in range(2))
    loss = score_surrogate(z_hat, direction)
    torch.testing.assert_close(loss, 0.5 * direction.pow(2).flatten(1).mean(1))
    loss.mean().backward()
    torch.testing.assert_close(z_hat.grad, direction.detach() / direction.numel())
    assert direction.grad is None


def test_a_step_is_made_in_the_directions_precision():
    z_hat = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    assert score_surrogate(z_hat, torch.ones(1, 1, 2, 2)).dtype == torch.float32
