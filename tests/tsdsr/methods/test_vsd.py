"""VSD, whose file is all that the method has: its term against the formula, and a whole run by the trainer."""

from __future__ import annotations

import torch

from tests.tsdsr.training.rig import RandomData, all_adapters, distill_config, gradients, method, student_turn, trainer
from tsdsr import seeding
from tsdsr.config import PhaseConfig
from tsdsr.flow import add_noise, expand, gaussian_like

RECIPE = {
    "method": "vsd",
    "vsd": {"t_range": [20, 980]},
    "phases": {"all": {"share": 1.0, "losses": {"lpips": 2.0, "latent_mse": 1.0, "vsd": 1.0}}},
}


def test_its_gradient_at_z_hat_is_the_difference_of_the_scores_over_the_teachers_error():
    made, batch = method(distill_config(**RECIPE)), RandomData().batch([3, 4, 5])
    z_hat = (batch.z + 0.3).requires_grad_(True)
    inputs, scale = made.inputs, made.inputs.config.guidance_scale

    class Output:
        def note(self, sigma, statistics):
            self.sigma, self.statistics = sigma, statistics

    output = Output()
    output.batch, output.z_hat = batch, z_hat
    made.terms()["vsd"](output).mean().backward()

    generators = [seeding.generator(0, "vsd", position) for position in batch.positions]
    t = torch.stack([torch.rand((), generator=generator) for generator in generators]) * 960 + 20
    sigma = inputs.schedule.sigma(t)
    z_t = add_noise(z_hat.detach(), gaussian_like(z_hat.detach(), generators), sigma)

    def clean(names, g):
        from tsdsr.models.velocity import GuidedVelocity

        v = GuidedVelocity(inputs.transformer, names, batch.embeds, batch.pooled, inputs.null, g)
        return z_t - expand(sigma, z_t) * v(z_t, 1000 * sigma)

    with torch.no_grad():
        psi, phi = clean((), scale.teacher), clean(("fake_score",), scale.fake_score)
        size = (z_hat - psi).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(z_hat.grad, (phi - psi) / size / z_hat.numel(), rtol=1e-4, atol=1e-7)
    assert output.statistics["vsd_norm"].shape == (3,)


def test_a_run_trains_the_student_and_the_fake_score(tmp_path):
    config = distill_config(**RECIPE)
    start = all_adapters(trainer(config, tmp_path).method.student)
    made = trainer(config, tmp_path)
    made.run()
    end = all_adapters(made.method.student)
    assert {key.split("/")[0] for key in start if not torch.equal(start[key], end[key])} == {
        "student",
        "vae",
        "fake_score",
    }
    assert {"vsd", "lpips", "latent_mse", "fake_score", "vsd_norm"} <= made.history[-1].keys()
    assert sum(row["samples"] for row in made.by_noise.rows(made.world)) == config.steps * config.batch_size


def test_the_term_teaches_the_student_alone():
    made = method(distill_config(**RECIPE))
    student_turn(made, RandomData().batch([3, 4]), PhaseConfig(share=1.0, losses={"vsd": 1.0}))
    found = gradients(made.student)
    assert found
    assert all(".student." in name for name in found)
