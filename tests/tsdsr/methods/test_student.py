from __future__ import annotations

import torch

from tests.tsdsr.training.rig import RandomData
from tsdsr.methods.base import Moment
from tsdsr.methods.student import RECONSTRUCTION, StudentOutput


def test_a_term_that_no_phase_asks_for_costs_nothing():
    decoded = []

    def decode(z_hat):
        decoded.append(z_hat)
        return torch.full((2, 3, 16, 16), 2.0)

    batch = RandomData().batch([0, 1])
    output = StudentOutput(
        batch.z + 1, batch, Moment(0, 1, None), decode, lambda x_hat, hq: (x_hat - 1).mean((1, 2, 3))
    )
    torch.testing.assert_close(RECONSTRUCTION["latent_mse"](output), torch.ones(2))
    assert decoded == []
    for _ in range(2):
        assert RECONSTRUCTION["lpips"](output).tolist() == [1.0, 1.0]
    assert len(decoded) == 1
