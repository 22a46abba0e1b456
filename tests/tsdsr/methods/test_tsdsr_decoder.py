"""TSD-SR with a decoder of the student's own: who learns from what, the directory, and a resumed run's bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from tests.tiny import random_prompt, tiny_transformer, tiny_vae
from tests.tsdsr.training.rig import SMALL, RandomData, distill_config, method
from tsdsr.errors import UserError
from tsdsr.methods.base import Moment
from tsdsr.models.student import load_student, upsample
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.trainer import Callbacks, Plan, Trainer

RECIPE = {
    "method": "tsdsr_decoder",
    "decoder": {
        "learning_rate": 1e-3,
        "discriminator_learning_rate": 1e-3,
        "texture_weight": 0.5,
        "pattern_weight": 0.0,
        "adversarial_weight": 0.5,
        "noise": 0.0,
        "extrapolation": 0.0,
    },
    "phases": {"all": {"share": 1.0, "dasm": False, "losses": {"latent_mse": 1.0, "tsd": 1.0}}},
}


class LargerData(RandomData):
    """Images of 64 pixels, which the texture's windows need."""

    def batch(self, positions):
        batch = super().batch(positions)
        return replace(batch, **{name: interpolate(getattr(batch, name), scale_factor=4) for name in ("lq", "hq", "z")})


@pytest.fixture
def made():
    return method(distill_config(**RECIPE))


def run(made, until):
    """The turns in order, up to the one named; their outputs."""
    batch, carried, outputs = LargerData().batch([0, 1]), {}, {}
    for turn in made.turns:
        outputs[turn.name] = turn.run(batch, Moment(0, 1, made.inputs.config.phases["all"], carried=carried))
        carried = {**carried, **outputs[turn.name].carried}
        if turn.name == until:
            break
    return outputs


def trained(made):
    """The names of the groups that have gradients."""
    return {
        group.name
        for group in made.groups()
        if any(parameter.grad is not None and parameter.grad.any() for parameter in group.parameters.values())
    }


def test_every_turn_trains_its_own_network_alone(made):
    order = ["student", "fake_score", "decoder", "discriminator"]
    assert [turn.name for turn in made.turns] == order
    for number, name in enumerate(order):
        for group in made.groups():
            for parameter in group.parameters.values():
                parameter.grad = None
        run(made, name)
        assert trained(made) == set(order[: number + 1])


def test_the_decoder_learns_the_photographs_from_the_students_latents(made):
    outputs, batch = run(made, "decoder"), LargerData().batch([0, 1])
    carried = outputs["decoder"].carried
    torch.testing.assert_close(carried["restored"], made.student.decode(outputs["student"].carried["z_hat"]))
    assert torch.equal(carried["images"], batch.hq)


def test_the_decoder_reads_other_noise_for_each_sample_and_the_student_the_pictures_own(tmp_path):
    made = method(distill_config(**{**RECIPE, "decoder": {**RECIPE["decoder"], "noise": 0.5}}))
    read = []
    made.inputs.vae.decoder.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    outputs = run(made, "decoder")
    z_hat, scale = outputs["student"].carried["z_hat"], made.inputs.vae.config.scaling_factor
    with torch.no_grad():
        noise = read[-1] - z_hat / scale
    assert noise.abs().mean() > 0.05
    assert not torch.allclose(noise[0], noise[1])
    made.export(tmp_path / "own", {"use_shift": False, "scale": 4})
    loaded, config = load_student(tiny_vae(), tiny_transformer(), tmp_path / "own")
    assert config["decoder_noise"] == loaded.decoder_noise == 0.5
    x_lq = upsample(LargerData().batch([3]).lq, 4)
    with torch.no_grad():
        torch.testing.assert_close(loaded.decode(loaded(x_lq, random_prompt(10))), made.restore(x_lq))
        assert not torch.allclose(made.restore(x_lq), made.student.codec.decode(loaded(x_lq, random_prompt(10))))


@pytest.mark.parametrize(("losses", "scored"), [({"latent_mse": 1.0}, False), ({"tsd": 1e-6}, True)])
def test_the_fake_score_is_trained_where_a_phase_asks_for_it(losses, scored):
    changes = {"phases": {"all": {"share": 1.0, "dasm": False, "losses": losses}}}
    recipes = [{"method": "tsdsr", **changes}, {**RECIPE, **changes}]
    assert all(
        ("fake_score" in [turn.name for turn in method(distill_config(**recipe)).turns]) == scored for recipe in recipes
    )


def test_the_exported_decoder_goes_on_by_a_share_of_its_way(tmp_path):
    made = method(distill_config(**{**RECIPE, "decoder": {**RECIPE["decoder"], "extrapolation": 0.25}}))
    decoder = made.inputs.vae.decoder
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    trained = {name: value.clone() for name, value in decoder.state_dict().items()}
    made.export(tmp_path / "own", {"use_shift": False, "scale": 4})
    for name, value in load_file(tmp_path / "own" / "decoder.safetensors").items():
        torch.testing.assert_close(value, trained[name] + 0.25 * (trained[name] - before[name]))
        assert torch.equal(decoder.state_dict()[name], trained[name])


def test_its_decoder_goes_with_the_student(made, tmp_path):
    with torch.no_grad():
        for parameter in made.inputs.vae.decoder.parameters():
            parameter.add_(0.01)
    made.export(tmp_path / "own", {"use_shift": False, "scale": 4})
    lq = LargerData().batch([3]).lq
    loaded, config = load_student(tiny_vae(), tiny_transformer(), tmp_path / "own")
    x_lq = upsample(lq, config["scale"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.decode(loaded(x_lq, random_prompt(10))), made.restore(x_lq))
    again = method(distill_config(**RECIPE))
    again.go_on_from(tmp_path / "own")
    with torch.no_grad():
        assert torch.equal(again.restore(x_lq), made.restore(x_lq))

    path = tmp_path / "own/decoder.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "conv_in" not in name}, path)
    with pytest.raises(UserError, match=r"decoder\.safetensors: not the decoder of this student's teacher"):
        load_student(tiny_vae(), tiny_transformer(), tmp_path / "own")


def test_interrupted_it_ends_with_the_same_bytes(tmp_path):
    config = distill_config(**{**RECIPE, "decoder": {**RECIPE["decoder"], "noise": 0.1}}, ema_decay=0.9)

    def train(folder, stop_after=None):
        steps = iter(range(1, SMALL["steps"] + 1))
        callbacks = Callbacks(stop=lambda: next(steps) == stop_after) if stop_after else Callbacks()
        store = CheckpointStore(tmp_path / folder, "key", 2)
        device = torch.device("cpu")
        trainer = Trainer(method(config), LargerData(), store, plan=Plan.of(config), device=device, callbacks=callbacks)
        trainer.run()
        return {
            f"{group.name}/{name}": value.detach().clone()
            for group in trainer.method.groups()
            for name, value in (*group.parameters.items(), *group.buffers.items())
        }

    whole = train("whole")
    with pytest.raises(Stopped):
        train("parts", stop_after=3)
    parts = train("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
