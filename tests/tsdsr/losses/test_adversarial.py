from __future__ import annotations

import torch

from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge


def test_hinge_losses_of_known_logits():
    real = torch.tensor([[2.0, 0.5], [-1.0, 1.0]])
    fake = torch.tensor([[-2.0, -0.5], [0.0, 3.0]])
    torch.testing.assert_close(discriminator_hinge(real, fake), torch.tensor([0.25 + 0.25, 1.0 + 2.5]))
    torch.testing.assert_close(generator_hinge(fake), torch.tensor([1.25, -1.5]))


def test_a_sample_beyond_the_margin_teaches_the_discriminator_nothing():
    real, fake = (torch.tensor([[1.5, 0.0]], requires_grad=True), torch.tensor([[-1.5, 0.0]], requires_grad=True))
    discriminator_hinge(real, fake).sum().backward()
    torch.testing.assert_close(real.grad, torch.tensor([[0.0, -0.5]]))
    torch.testing.assert_close(fake.grad, torch.tensor([[0.0, 0.5]]))
