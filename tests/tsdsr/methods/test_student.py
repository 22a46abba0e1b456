from __future__ import annotations

import torch

from tests.tsdsr.training.rig import RandomData, distill_config, method, perceptual, student_turn
from tsdsr.methods.base import Moment
from tsdsr.methods.student import RECONSTRUCTION, StudentOutput, gradient_of
from tsdsr.models.student import upsample


def test_a_term_that_no_phase_asks_for_costs_nothing():
    decoded = []

    def decode(z_hat):
        decoded.append(z_hat)
        return torch.full((2, 3, 16, 16), 2.0)  # beyond white, which a term of the image takes for white

    batch = RandomData().batch([0, 1])
    output = StudentOutput(batch.z + 1, batch, Moment(0, 1, None), decode, lambda x_hat, hq: x_hat.mean((1, 2, 3)))
    torch.testing.assert_close(RECONSTRUCTION["latent_mse"](output), torch.ones(2))
    assert decoded == []
    for _ in range(2):
        assert RECONSTRUCTION["lpips"](output).tolist() == [1.0, 1.0]
    assert len(decoded) == 1


def test_each_terms_gradient_at_z_hat_is_measured():
    """Against autograd, term by term, through the decoder where it is looked at."""
    made, batch = method(distill_config()), RandomData().batch([3, 4])
    phase = (
        distill_config().phases["early"].model_copy(update={"losses": {"lpips": 3.0, "tsd": 5.0, "latent_mse": 0.5}})
    )
    found = student_turn(made, batch, phase, share=0.25).statistics

    z_hat = student_turn(method(distill_config()), batch, phase).carried["z_hat"].requires_grad_(True)
    terms = {
        "lpips": perceptual(made.student.decode(z_hat).clamp(-1, 1), batch.hq),
        "tsd": made.tsd(z_hat, batch, dasm=False).per_sample,
        "latent_mse": (z_hat - batch.z).pow(2).mean((1, 2, 3)),
    }
    gradients = {name: phase.losses[name] * torch.autograd.grad(term.sum(), z_hat)[0] for name, term in terms.items()}
    norms = {name: gradient.flatten(1).norm(dim=1) for name, gradient in gradients.items()}
    for name, norm in norms.items():
        torch.testing.assert_close(found[f"grad_norm/{name}"], norm.mean(), rtol=1e-3, atol=1e-7)
        share = (norm / sum(norms.values())).mean()
        torch.testing.assert_close(found[f"grad_share/{name}"], share, rtol=1e-3, atol=1e-6)


def test_terms_of_the_image_share_one_backward_of_the_decoder():
    batch, backwards = RandomData().batch([0, 1]), []
    weights = torch.randn(2, 3, 16, 16)

    def decode(z_hat):
        image = z_hat.mean(1, keepdim=True).repeat(1, 3, 2, 2)
        image.register_hook(lambda gradient: backwards.append(gradient))
        return image

    z_hat = batch.z.clone().requires_grad_(True)
    output = StudentOutput(z_hat, batch, Moment(0, 1, None), decode, perceptual)
    terms = {
        "one": (output.x_hat * weights).mean((1, 2, 3)),
        "two": 3 * (output.x_hat * weights).mean((1, 2, 3)),
        "latent": z_hat.mean((1, 2, 3)),
    }
    gradient, norms = gradient_of(terms, output)
    assert len(backwards) == 1
    again = batch.z.clone().requires_grad_(True)
    whole = 4 * (decode(again) * weights).mean((1, 2, 3)) + again.mean((1, 2, 3))
    torch.testing.assert_close(gradient, torch.autograd.grad(whole.mean(), again)[0])
    torch.testing.assert_close(norms["two"], 3 * norms["one"])


def test_crops_move_through_the_table_of_positions():
    """The place changes the student's answer and is drawn anew each step."""
    moving = distill_config(shift_positions=True)
    made, batch = method(moving, sample_size=16), RandomData().batch([0, 1])  # latents of 8: two patches to either side
    embed = made.inputs.transformer.pos_embed
    table, answers = embed.pos_embed, set()
    for step in range(20):
        with made.around(step, batch):
            moved = embed.pos_embed
            offset = next(
                (down, across)
                for down in range(-2, 3)
                for across in range(-2, 3)
                if torch.equal(moved, table.reshape(16, 16, -1).roll((-down, -across), (0, 1)).reshape(table.shape))
            )
            answers.add((offset, float(made.student(upsample(batch.lq, 4), made.inputs.default).detach().sum())))
        assert embed.pos_embed is table
    assert len({offset for offset, _ in answers}) > 10
    assert len({answer for _, answer in answers}) == len(answers)


def test_a_recipe_that_does_not_shift_positions_leaves_them():
    made, batch = method(distill_config()), RandomData().batch([0])
    table = made.inputs.transformer.pos_embed.pos_embed
    with made.around(3, batch):
        assert made.inputs.transformer.pos_embed.pos_embed is table
