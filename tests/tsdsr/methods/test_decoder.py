"""The decoder's refinement: who learns from what, the terms' shares, and a resumed run's bytes."""

import copy

import pytest
import torch

from tsdsr import seeding
from tsdsr.config import TeacherDecoderConfig
from tsdsr.losses.pattern import pattern_loss
from tsdsr.losses.texture import texture_loss
from tsdsr.methods.base import Moment
from tsdsr.methods.decoder import SHIFT, DecoderTraining, random_shift
from tsdsr.methods.teacher import crop_data, reconstruction_loss
from tsdsr.models import presets
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.teacher import Session, refine_decoder


def config(**changes) -> TeacherDecoderConfig:
    values = {
        "steps": 4,
        "batch_size": 2,
        "crop_size": 48,
        "learning_rate": 1e-3,
        "discriminator_learning_rate": 1e-3,
        "texture_weight": 0.5,
        "pattern_weight": 0.0,
        "adversarial_weight": 0.5,
    }
    return TeacherDecoderConfig(**{**values, **changes})


@pytest.fixture
def vae():
    vae = presets.build_vae(presets.get("tiny"), seed=0).eval().requires_grad_(False)
    vae.decoder.requires_grad_(True)
    return vae


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def one_step(vae, images, settings):
    """Both turns' gradients, left on the networks."""
    training = DecoderTraining(vae, settings, seed=0)
    batch = next(crop_data(images, settings, seed=0, purpose="decoder").prefetched([[0, 1]]))
    decoder, discriminator = training.turns
    output = decoder.run(batch, Moment(step=1000, steps=2000, phase=None))
    before = [p.grad for p in discriminator.network.parameters()]
    grads = [p.grad.clone() for p in vae.decoder.parameters()]
    discriminator.run(batch, Moment(step=1000, steps=2000, phase=None, carried=output.carried))
    return batch, output, before, grads, training


def test_each_turn_trains_its_own_network_alone(vae, images):
    _, _, before, grads, training = one_step(vae, images, config())
    assert before == [None] * len(before)
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(vae.decoder.parameters(), grads, strict=True))
    assert all(p.grad is not None for p in training.turns[1].network.parameters())


def shifted_texture(x_hat, x):
    """As in step 1000 of `one_step`."""
    shift = random_shift(seeding.derive(0, "teacher", "decoder shift"))
    return texture_loss(shift(x_hat, 1000), shift(x, 1000))


def test_the_place_of_windows_and_strides_moves_from_step_to_step():
    """At one place in every step the decoder would answer with a grid of their pitch."""
    picture = torch.arange(64.0 * 64).reshape(1, 1, 64, 64)
    shift = random_shift(3)
    corners = [shift(picture, step)[0, 0, 0, 0] for step in range(400)]
    places = {divmod(int(corner), 64) for corner in corners}
    assert {down for down, _ in places} == {across for _, across in places} == set(range(SHIFT))
    assert len(places) > 150
    assert shift(picture, 7).shape[-2:] == (64 - SHIFT + 1, 64 - SHIFT + 1)
    assert torch.equal(shift(picture, 7), shift(picture, 7))


@pytest.mark.parametrize(("term", "loss", "side"), [("texture", shifted_texture, 48), ("pattern", pattern_loss, 128)])
def test_the_gradient_is_the_sum_of_scaled_terms(vae, term, loss, side):
    """Without the discriminator: reconstruction, and the other term at half of its norm at the picture."""
    images = torch.rand(3, 3, side + 16, side + 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights = {"adversarial_weight": 0.0, "texture_weight": 0.0, "pattern_weight": 0.0}
    settings = config(**{**weights, f"{term}_weight": 0.5}, crop_size=side)
    batch, output, _, grads, _ = one_step(vae, images, settings)
    leaf = output.carried["restored"].clone().requires_grad_()
    (rec,) = torch.autograd.grad(reconstruction_loss(leaf, batch.crops), leaf)
    (other,) = torch.autograd.grad(loss(leaf, batch.crops).mean(), leaf)
    wanted = rec + 0.5 * other * rec.norm() / other.norm()
    fresh = next(crop_data(images, settings, seed=0, purpose="decoder").prefetched([[0, 1]]))
    posterior = vae.encode(fresh.crops).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=fresh.generator)
    vae.zero_grad()
    vae.decode(posterior.mean + posterior.std * noise).sample.backward(wanted)
    for parameter, grad in zip(vae.decoder.parameters(), grads, strict=True):
        assert torch.allclose(parameter.grad, grad, rtol=1e-4, atol=1e-7)


def test_a_resumed_refinement_ends_with_the_same_bytes(vae, images, tmp_path):
    def run(vae, folder, stop_after):
        steps = iter(range(1, 100))
        session = Session(CheckpointStore(tmp_path / folder, "key", 2), 10, lambda step, values: None, lambda: False)
        if stop_after:
            stop = lambda: next(steps) == stop_after  # noqa: E731
            interrupted = Session(session.store, 10, session.on_step, stop)
            with pytest.raises(Stopped):
                refine_decoder(copy.deepcopy(vae), images, config(), seed=0, session=interrupted)
        return refine_decoder(vae, images, config(), seed=0, session=session)

    encoder = {name: value.clone() for name, value in vae.encoder.state_dict().items()}
    whole, parts = copy.deepcopy(vae), copy.deepcopy(vae)
    assert run(whole, "whole", None) == run(parts, "parts", 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert all(torch.equal(value, encoder[name]) for name, value in whole.encoder.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), vae.parameters(), strict=True))
