from __future__ import annotations

import torch

from tests.tiny import relative
from tsdsr import seeding
from tsdsr.losses import flow_matching_loss


def inputs(dtype: torch.dtype = torch.float64):
    draw = seeding.generator(0, "fake")
    return tuple(torch.randn(3, 2, 4, 4, generator=draw, dtype=torch.float64).to(dtype) for _ in range(3))


def test_it_is_flow_matching_on_the_students_latents():
    v_fake, z_hat, noise = inputs()
    wanted = torch.stack([((v_fake[b] - (noise[b] - z_hat[b])) ** 2).mean() for b in range(3)])
    torch.testing.assert_close(flow_matching_loss(v_fake, z_hat, noise), wanted)
    torch.testing.assert_close(flow_matching_loss(noise - z_hat, z_hat, noise), torch.zeros(3, dtype=torch.float64))


def test_the_gradient_reaches_phi_alone():
    v_fake, z_hat, noise = (tensor.requires_grad_(True) for tensor in inputs())
    flow_matching_loss(v_fake, z_hat, noise).mean().backward()
    torch.testing.assert_close(v_fake.grad, 2 * (v_fake - (noise - z_hat)).detach() / v_fake.numel())
    assert z_hat.grad is None


def test_a_batch_equals_its_samples():
    given = inputs()
    together = flow_matching_loss(*given)
    apart = torch.cat([flow_matching_loss(*(tensor[b : b + 1] for tensor in given)) for b in range(3)])
    torch.testing.assert_close(together, apart)


def test_half_precision_is_computed_in_float32():
    given = inputs(torch.bfloat16)
    found = flow_matching_loss(*given)
    assert found.dtype == torch.float32
    assert relative(found.double(), flow_matching_loss(*(tensor.double() for tensor in given))) < 1e-6
