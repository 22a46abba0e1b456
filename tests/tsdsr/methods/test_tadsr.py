"""TAD-SR: what each of its two turns trains, its terms, its targets, and whole runs by the trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.caches import write_cache
from tests.teachers import write_pairs
from tests.tiny import random_prompt, relative
from tests.tsdsr.training.rig import RandomData, all_adapters, distill_config, gradients, method, trainer
from tsdsr import seeding
from tsdsr.config import PhaseConfig
from tsdsr.data.cache import Sample, mirrored
from tsdsr.data.dataset import DistillationData
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.flow import add_noise, gaussian_like, uniform
from tsdsr.losses.hfsd import hfsd_loss
from tsdsr.methods.base import Moment
from tsdsr.training.checkpoint import Stopped

OPTIMIZER = {"student_lr": 1e-2, "discriminator_lr": 1e-2, "weight_decay": 0.0, "betas": [0.9, 0.999], "clip_norm": 1.0}
LOSSES = {"regression": 1.0, "hfsd": 1.0, "gan": 0.2}
RECIPE: dict[str, Any] = {
    "method": "tadsr",
    "degradation": "offline",
    "augment": {"crop_size": None, "flip": True},
    "lora": {"rank": 4, "alpha": 4, "vae_rank": 3},
    "hfsd": {"residual": "noise", "t_range": [10, 110]},
    "discriminator": {"t_range": [20, 880], "outputs": 8},
    "optimizer": OPTIMIZER,
    "phases": {"all": {"share": 1.0, "losses": LOSSES}},
    "ema_decay": 0.9,
}
POSITIONS = [3, 4, 5]


def made(**changes: Any) -> Any:
    """The method with the discriminator's zero convolutions opened, as a step of training opens them."""
    found = method(distill_config(**RECIPE, **changes))
    draw = seeding.generator(0, "opened")
    for head in found.critic.heads.heads:
        head.spatial.weight.data = 0.1 * torch.randn(head.spatial.weight.shape, generator=draw)
    return found


def take(found: Any, turn: int, **losses: float):
    phase = PhaseConfig(share=1.0, losses=losses or LOSSES)
    return found.turns[turn].run(RandomData().batch(POSITIONS), Moment(0, 1, phase))


def head_gradients(found: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in found.critic.heads.named_parameters() if p.grad is not None}


def test_the_discriminator_comes_before_the_student_and_only_where_it_is_asked():
    assert [turn.name for turn in made().turns] == ["discriminator", "student"]
    without = distill_config(**{**RECIPE, "phases": {"all": {"share": 1.0, "losses": {**LOSSES, "gan": 0.0}}}})
    assert [turn.name for turn in method(without).turns] == ["student"]


def test_the_discriminators_turn_trains_the_discriminator_alone():
    found = made()
    output = take(found, 0)
    assert head_gradients(found).keys() == dict(found.critic.heads.named_parameters()).keys()
    assert gradients(found.student) == {}
    assert float(output.terms["discriminator"]) > 0


def test_the_gan_term_trains_the_student_alone():
    found = made()
    before = {name: value.clone() for name, value in found.critic.heads.state_dict().items()}
    take(found, 1, gan=1.0)
    reached = gradients(found.student)
    assert all(".student." in name for name in reached)
    for part in ("transformer", "vae"):
        assert any(float(gradient.abs().max()) > 0 for name, gradient in reached.items() if name.startswith(part))
    assert head_gradients(found) == {}
    after = found.critic.heads.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert found.critic.heads.training


def test_both_turns_judge_the_same_latents_at_the_same_noise(monkeypatch):
    found, seen = made(), []
    features = found.inputs.restorer.features
    monkeypatch.setattr(found.inputs.restorer, "features", lambda *given: seen.append(given) or features(*given))
    take(found, 0)
    take(found, 1, gan=1.0)
    (both, times, z_lq), (z_hat_t, its_times, its_z_lq) = seen
    batch = RandomData().batch(POSITIONS)
    generators = [seeding.generator(0, "discriminator", position) for position in POSITIONS]
    sigma = found.inputs.schedule.sigma(uniform(generators, (20, 880), batch.z.device))
    real, fake = both.chunk(2)
    assert torch.equal(real, add_noise(batch.z, gaussian_like(batch.z, generators), sigma))
    assert relative(z_hat_t, fake) < 1e-5  # with autograd and without, an adapter rounds differently
    assert torch.equal(times, torch.cat([its_times, its_times]))
    assert torch.equal(its_times, 1000 * sigma)
    assert torch.equal(z_lq, its_z_lq)


def test_the_hfsd_term_is_hfsd_at_the_restoring_teacher():
    found, batch = made(), RandomData().batch(POSITIONS)
    z_tea, z_lq = batch.z + 0.2, batch.z - 0.1
    found._targets = lambda batch: (z_tea, z_lq)

    class Output:
        z_hat = (batch.z + 0.3).requires_grad_(True)

        def note(self, sigma, statistics):
            self.sigma, self.statistics = sigma, statistics

    output = Output()
    output.batch = batch
    terms = found.terms()
    torch.testing.assert_close(terms["regression"](output), torch.full((3,), 0.01))
    terms["hfsd"](output).mean().backward()
    generators = [seeding.generator(0, "hfsd", position) for position in POSITIONS]
    wanted = hfsd_loss(
        output.z_hat.detach(),
        z_tea,
        t=uniform(generators, (10, 110), z_tea.device),
        noise=gaussian_like(z_tea, generators),
        teacher=lambda z_t, timestep: found.inputs.restorer(z_t, timestep, z_lq),
        schedule=found.inputs.schedule,
    )
    assert relative(output.z_hat.grad, wanted.direction / wanted.direction.numel()) < 1e-5
    assert torch.equal(output.sigma, wanted.sigma)
    assert float(wanted.sigma.max()) < 0.271  # sigma of t = 110


@pytest.mark.parametrize("saving", [{"gradient_checkpointing": True}, {"vae_slice": 1}])
def test_saving_memory_gives_the_same_gradients(saving):
    """The student's forward is repeated during backward, when the restorer has been at work in between."""
    plain, again = made(), made(**saving)
    take(plain, 1)
    take(again, 1)
    found, wanted = gradients(again.student), gradients(plain.student)
    assert found.keys() == wanted.keys()
    assert max(relative(found[name], value) for name, value in wanted.items() if float(value.norm()) > 1e-12) < 1e-4


def state(of: Any) -> dict[str, Tensor]:
    """All that a run of TAD-SR changes."""
    kept = all_adapters(of.method.student) | dict(of.method.critic.heads.state_dict())
    return {name: value.detach().clone() for name, value in {**kept, **of.ema}.items()}


def test_interrupted_it_ends_with_the_same_bytes(tmp_path):
    config = distill_config(**{**RECIPE, "steps": 4, "checkpoint": {"every": 3, "keep": 2}})
    whole = trainer(config, tmp_path / "whole")
    start = state(whole)
    whole.run()
    wanted = state(whole)
    changed = {name for name in start if not torch.equal(start[name], wanted[name])}
    for kind in ("lora_B", "spatial.weight", "modulation.weight", "weight.0._u", "student/"):
        assert any(kind in name for name in changed), kind
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        trainer(config, tmp_path / "parts", stop=lambda: next(asked)).run()
    again = trainer(config, tmp_path / "parts")
    again.run()
    found = state(again)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert again.history == whole.history
    assert {"discriminator", "logit_real", "regression", "hfsd", "gan", "hfsd_norm"} <= whole.history[-1].keys()


def data(root, *, restores: bool) -> DistillationData:
    pairs = PairFolder(write_pairs(root / "pairs", count=2, side=16))
    draw = seeding.generator(0, "cache")
    names = [name for pair in pairs.ids for name in (pair, mirrored(pair))]
    samples = [
        Sample(
            name, "a cup", *(torch.randn(*shape, generator=draw) for shape in ((4, 8, 8), (2, 4, 8, 8))[: 1 + restores])
        )
        for name in names
    ]
    prompts = [(text, random_prompt(number)) for number, text in enumerate(("", "a cup", "a default"))]
    cache = write_cache(root / "cache", samples, prompts, default_prompt="a default")
    return DistillationData(pairs, cache, seed=0, flip=True)


def test_its_targets_are_what_the_cache_holds_of_each_image(tmp_path):
    found, photographs = made(), data(tmp_path, restores=True)
    found.prepare(photographs, tmp_path / "targets")
    batch = next(photographs.prefetched([range(8)]))
    z_tea, z_lq = found.targets(batch)
    assert {name.endswith("~mirrored") for name in batch.names} == {True, False}
    for row, name in enumerate(batch.names):
        wanted = photographs.cache.restored(photographs.cache.ids.index(name))
        assert torch.equal(torch.stack([z_tea[row], z_lq[row]]), wanted)


def test_a_cache_without_its_teachers_outputs_is_named(tmp_path):
    with pytest.raises(UserError, match=r"restorer\.enabled: true.*`dvc repro precompute`"):
        made().prepare(data(tmp_path, restores=False), tmp_path / "targets")
