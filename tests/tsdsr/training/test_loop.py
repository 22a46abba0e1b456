from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.tsdsr.training.rig import RandomData, all_adapters, distill_config, trainer
from tsdsr.config import Params
from tsdsr.models import adapters
from tsdsr.training.diagnostics import STATISTICS
from tsdsr.training.loop import NonFiniteError, phase_at


def run(config, directory, **options):
    made = trainer(config, directory, **options)
    made.run()
    return made


def same(found, wanted) -> bool:
    a, b = all_adapters(found.student), all_adapters(wanted.student)
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in b)


def test_a_run_trains_all_three_adapters(tmp_path):
    config = distill_config()
    start = all_adapters(trainer(config, tmp_path).student)
    end = all_adapters(run(config, tmp_path).student)
    moved = {key.split("/")[0] for key in start if not torch.equal(start[key], end[key])}
    assert moved == {"student", "vae", "fake_score"}


def test_a_run_is_repeatable_and_follows_its_seed(tmp_path):
    first, second = (run(distill_config(), tmp_path / str(i)) for i in range(2))
    assert same(first, second)
    assert first.history == second.history
    torch.manual_seed(123)  # the global state is nobody's business
    assert same(run(distill_config(), tmp_path / "2"), first)


class Killed(Exception):
    pass


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("die_at", [3, 5])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, die_at, ema):
    config = distill_config(ema_decay=ema)
    whole = run(config, tmp_path / "whole")

    def die(step, values):
        if step == die_at:
            raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "cut", on_step=die)
    steps = []
    resumed = run(config, tmp_path / "cut", on_step=lambda step, values: steps.append(step))
    assert steps[0] == (die_at // 2) * 2 + 1  # the step after the last checkpoint
    assert same(resumed, whole)
    assert [row["step"] for row in resumed.history] == [row["step"] for row in whole.history]
    for found, wanted in zip(resumed.history, whole.history, strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(resumed.diagnostics.sums, whole.diagnostics.sums, rtol=1e-12, atol=0)


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(tmp_path):
    config = distill_config()
    whole = run(config, tmp_path / "whole")
    cut = run(config, tmp_path / "cut")
    (sorted(cut.store.directory.glob("step-*"))[-1] / "state.safetensors").write_bytes(b"0")
    steps = []
    resumed = run(config, tmp_path / "cut", on_step=lambda step, values: steps.append(step))
    assert steps[0] == 5
    assert same(resumed, whole)


def test_another_runs_checkpoint_is_left_alone(tmp_path):
    config, steps = distill_config(), []
    run(config, tmp_path)
    run(config, tmp_path, key="another", on_step=lambda step, values: steps.append(step))
    assert steps[0] == 1


def test_checkpoints_are_announced_once_they_are_safe(tmp_path):
    config, seen = distill_config(), []
    run(
        config,
        tmp_path,
        on_checkpoint=lambda step, values: seen.append((step, (tmp_path / f"step-{step:08d}").is_dir())),
    )
    assert seen == [(2, True), (4, True), (6, True)]


def test_accumulation_gives_the_same_step(tmp_path):
    one = run(distill_config(steps=2), tmp_path / "1")
    two = run(distill_config(steps=2, accumulation=2), tmp_path / "2")
    close_adapters(two, one)
    for name in ("tsd", "lpips", "latent_mse", "fake_score"):
        assert two.history[-1][name] == pytest.approx(one.history[-1][name], rel=1e-3)


def close_adapters(found, wanted, tolerance: float = 1e-4) -> None:
    a, b = all_adapters(found.student), all_adapters(wanted.student)
    # AdamW's first steps are nearly signs, so a gradient of rounding size may turn round; count what moved together
    apart = torch.cat([(a[key] - b[key]).abs().flatten() for key in b])
    assert float((apart < tolerance).float().mean()) > 0.98
    assert float(apart.mean()) < tolerance


def test_metrics_are_window_means_of_every_term(tmp_path):
    seen = {}
    made = run(distill_config(), tmp_path, on_metrics=lambda step, values: seen.update({step: values}))
    assert list(seen) == [3, 6]
    terms = {"lpips", "latent_mse", "tsd", "fake_score", *STATISTICS}
    assert terms | {"student_grad_norm", "fake_score_grad_norm", "student_lr"} <= seen[3].keys()
    assert "latent_mse" not in run(distill_config(steps=10), tmp_path / "late").history[-1]  # not in the late phase
    assert [row["step"] for row in made.history] == [3, 6]


def test_the_end_is_logged_whatever_the_window(tmp_path):
    assert [row["step"] for row in run(distill_config(steps=4), tmp_path).history] == [3, 4]


def test_phases_share_the_steps():
    config = distill_config(steps=10)
    assert [phase_at(step, config)[0] for step in range(10)] == ["early"] * 6 + ["late"] * 4
    last = {"share": 0.25, "dasm": True, "losses": {"lpips": 1.0}}
    config = distill_config(steps=7, phases={"early": {"share": 0.5}, "late": {"share": 0.25}, "last": last})
    names = [phase_at(step, config)[0] for step in range(7)]
    assert names == sorted(names, key=["early", "late", "last"].index)
    assert set(names) == {"early", "late", "last"}


def test_phases_do_what_they_say(tmp_path, monkeypatch):
    seen = []
    made = trainer(distill_config(steps=5), tmp_path)
    original = made.distiller.student_turn

    def spy(batch, phase, share):
        seen.append((phase.dasm, dict(phase.losses)))
        return original(batch, phase, share)

    monkeypatch.setattr(made.distiller, "student_turn", spy)
    made.run()
    early, late = (
        (False, {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}),
        (True, {"lpips": 1.0, "tsd": 2.0, "latent_mse": 0.0}),
    )
    assert seen == [early] * 3 + [late] * 2


@pytest.mark.parametrize("term", ["tsd", "latent_mse"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, monkeypatch, term, value):
    made = trainer(distill_config(steps=4), tmp_path)
    original = made.distiller.student_turn

    def poisoned(batch, phase, share):
        output = original(batch, phase, share)
        if batch.positions[0] < 8:
            return output
        return replace(output, losses=output.losses | {term: torch.tensor(value)})

    monkeypatch.setattr(made.distiller, "student_turn", poisoned)
    before = {}
    made.on_step = lambda step, values: before.update(all_adapters(made.student))
    with pytest.raises(NonFiniteError, match=f"step 3.*{term}") as caught:
        made.run()
    assert "lpips" not in str(caught.value)
    after = all_adapters(made.student)
    assert all(torch.equal(after[key], before[key]) for key in after)


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    made = trainer(distill_config(), tmp_path)
    parameter = next(iter(adapters.parameters(made.student.transformer, adapters.STUDENT).values()))
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = all_adapters(made.student)
    with pytest.raises(NonFiniteError, match=r"step 1.*student"):
        made.run()
    after = all_adapters(made.student)
    assert all(torch.equal(after[key], before[key]) for key in after)


def test_the_fake_scores_loss_is_watched_too(tmp_path, monkeypatch):
    made = trainer(distill_config(), tmp_path)
    original = made.distiller.fake_score_turn

    def poisoned(*args):
        original(*args)
        return torch.tensor(float("nan"))

    monkeypatch.setattr(made.distiller, "fake_score_turn", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 1.*fake_score"):
        made.run()


def test_ema_is_the_average_that_is_kept(tmp_path):
    decay, config = 0.8, distill_config(steps=4, ema_decay=0.8)
    plain = trainer(distill_config(steps=4), tmp_path / "plain")
    average = {name: p.detach().clone() for name, p in plain.student_optimizer.named.items()}

    def follow(step, values):
        for name, value in average.items():
            value.mul_(decay).add_(plain.student_optimizer.named[name].detach(), alpha=1 - decay)

    plain.on_step = follow
    plain.run()
    kept = run(config, tmp_path / "ema")
    for name, value in average.items():
        torch.testing.assert_close(kept.student_optimizer.named[name].detach(), value, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_follows_the_schedule(tmp_path):
    rates = []
    made = trainer(distill_config(steps=6, log_every=1), tmp_path)
    made.on_metrics = lambda step, values: rates.append(values["student_lr"])
    made.run()
    assert rates[:2] == pytest.approx([0.005, 0.01])
    assert all(b < a for a, b in pairwise(rates[1:]))


def test_positions_are_the_global_batchs_in_order(tmp_path):
    made = trainer(distill_config(accumulation=2), tmp_path)
    assert [made._positions(step) for step in range(2)] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_a_finished_run_has_consumed_every_position_once(tmp_path, monkeypatch):
    seen = []
    original = RandomData.batch

    def spy(self, positions):
        seen.extend(positions)
        return original(self, positions)

    monkeypatch.setattr(RandomData, "batch", spy)
    run(distill_config(accumulation=2), tmp_path)
    assert seen == list(range(24))


def test_params_overlay_reaches_the_trainer(params, tmp_path, caplog):
    assert isinstance(params, Params)
    with caplog.at_level(logging.INFO):
        run(distill_config(), tmp_path)
        run(distill_config(), tmp_path)
    assert "resuming after step 6 of 6" in caplog.text
