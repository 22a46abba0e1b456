from __future__ import annotations

import subprocess
import sys

import torch

from tsdsr import seeding


def test_equal_labels_give_equal_draws_and_others_do_not():
    draws = {
        labels: float(torch.rand((), generator=seeding.generator(*labels)))
        for labels in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1"), (0, "a", "1", "")]
    }
    assert len(set(draws.values())) == len(draws)
    assert float(torch.rand((), generator=seeding.generator(0, "a", 1))) == draws[0, "a", 1]


def test_a_seed_is_the_same_in_every_process():
    # Python's own hash() of a string differs between processes; a resumed run or another worker must not.
    command = "from tsdsr import seeding; print(seeding.derive(7, 'tsd', 12))"
    found = {
        subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert found == {str(seeding.derive(7, "tsd", 12))}


def test_a_seed_fits_both_generators():
    assert 0 <= seeding.derive(0, "x") < 2**63
    numpy_draw = seeding.numpy_generator(0, "x").random()
    assert seeding.numpy_generator(0, "x").random() == numpy_draw


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    torch.rand(3, generator=seeding.generator(0, "y"))
    assert torch.equal(torch.random.get_rng_state(), before)
