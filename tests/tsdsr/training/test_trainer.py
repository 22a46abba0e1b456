from __future__ import annotations

import logging
import math
from itertools import pairwise

import pytest
import torch

from tests.tsdsr.training.rig import RandomData, all_adapters, distill_config, trainer
from tsdsr.config import Params
from tsdsr.methods.tsdsr import TSDSR
from tsdsr.models import adapters
from tsdsr.training.trainer import NonFiniteError, Plan


def run(config, directory, **options):
    made = trainer(config, directory, **options)
    made.run()
    return made


def same(found, wanted) -> bool:
    a, b = all_adapters(found.method.student), all_adapters(wanted.method.student)
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in b)


def test_a_run_trains_all_three_adapters(tmp_path):
    config = distill_config()
    start = all_adapters(trainer(config, tmp_path).method.student)
    end = all_adapters(run(config, tmp_path).method.student)
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
    torch.testing.assert_close(resumed.by_noise.sums, whole.by_noise.sums, rtol=1e-12, atol=0)


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
    a, b = all_adapters(found.method.student), all_adapters(wanted.method.student)
    # AdamW's first steps are nearly signs, so a gradient of rounding size may turn round; count what moved together
    apart = torch.cat([(a[key] - b[key]).abs().flatten() for key in b])
    assert float((apart < tolerance).float().mean()) > 0.98
    assert float(apart.mean()) < tolerance


def test_metrics_are_window_means_of_every_term(tmp_path):
    seen = {}
    made = run(distill_config(), tmp_path, on_metrics=lambda step, values: seen.update({step: values}))
    assert list(seen) == [3, 6]
    terms = {"lpips", "latent_mse", "tsd", "fake_score", *TSDSR.statistics}
    assert terms | {"student_grad_norm", "fake_score_grad_norm", "student_lr"} <= seen[3].keys()
    assert "latent_mse" not in run(distill_config(steps=10), tmp_path / "late").history[-1]  # not in the late phase
    assert [row["step"] for row in made.history] == [3, 6]


def test_the_end_is_logged_whatever_the_window(tmp_path):
    assert [row["step"] for row in run(distill_config(steps=4), tmp_path).history] == [3, 4]


def test_phases_share_the_steps():
    config = distill_config(steps=10)
    assert [Plan.of(config).phase_at(step) for step in range(10)] == ["early"] * 6 + ["late"] * 4
    rest = {"dasm": True, "losses": {"lpips": 1.0}}
    shares = {"early": 0.5, "late": 0.25, "last": 0.25}
    config = distill_config(steps=7, phases={name: {"share": share, **rest} for name, share in shares.items()})
    names = [Plan.of(config).phase_at(step) for step in range(7)]
    assert names == sorted(names, key=["early", "late", "last"].index)
    assert set(names) == {"early", "late", "last"}


def test_phases_do_what_they_say(tmp_path, monkeypatch):
    seen = []
    made = trainer(distill_config(steps=5), tmp_path)
    turn = made.method.turns[0]
    original = turn.run

    def spy(batch, moment):
        seen.append((moment.phase.dasm, dict(moment.phase.losses)))
        return original(batch, moment)

    monkeypatch.setattr(turn, "run", spy)
    made.run()
    early, late = (
        (False, {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}),
        (True, {"lpips": 1.0, "tsd": 2.0, "latent_mse": 0.0}),
    )
    assert seen == [early] * 3 + [late] * 2


def poison(made, monkeypatch, term, value, from_position=0, turn=0):
    """From this position on, a turn's loss term has this value."""
    turn = made.method.turns[turn]
    original = turn.run

    def poisoned(batch, moment):
        output = original(batch, moment)
        if batch.positions[0] >= from_position:
            output.terms[term] = torch.tensor(value)
        return output

    monkeypatch.setattr(turn, "run", poisoned)


@pytest.mark.parametrize("term", ["tsd", "latent_mse"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_updates_nothing(tmp_path, monkeypatch, term, value):
    made = trainer(distill_config(steps=4, log_every=1), tmp_path)
    poison(made, monkeypatch, term, value, from_position=8)
    before = {}
    made.callbacks.on_step = lambda step, values: before.update(all_adapters(made.method.student))
    with pytest.raises(NonFiniteError, match=f"step 3: not finite: {term}. The student was not updated") as caught:
        made.run()
    assert "lpips" not in str(caught.value)
    after = all_adapters(made.method.student)
    student = [key for key in after if not key.startswith("fake_score")]
    assert all(torch.equal(after[key], before[key]) for key in student)


def test_a_gradient_that_is_not_finite_updates_nothing(tmp_path):
    made = trainer(distill_config(log_every=1), tmp_path)
    parameter = next(iter(adapters.parameters(made.method.student.transformer, adapters.STUDENT).values()))
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = all_adapters(made.method.student)
    with pytest.raises(NonFiniteError, match=r"step 1: not finite: student's gradient"):
        made.run()
    after = all_adapters(made.method.student)
    assert all(torch.equal(after[key], before[key]) for key in after if not key.startswith("fake_score"))


def test_the_fake_scores_loss_is_watched_too(tmp_path, monkeypatch):
    made = trainer(distill_config(), tmp_path)
    poison(made, monkeypatch, "fake_score", float("nan"), turn=1)
    with pytest.raises(NonFiniteError, match=r"step 1: not finite: fake_score\. The fake_score was"):
        made.run()


def test_as_many_skipped_updates_as_are_allowed_are_survived_and_counted(tmp_path, monkeypatch, caplog):
    config = distill_config(steps=6, log_every=2, max_skipped=2)
    made = trainer(config, tmp_path / "run")
    poison(made, monkeypatch, "tsd", float("nan"), from_position=16)
    made.run()
    assert [row.get("skipped") for row in made.history] == [None, None, 2.0]
    assert "step 5: not finite: tsd. The student was not updated" in caplog.text
    assert all(math.isfinite(value) for row in made.history for value in row.values())
    once_more = trainer(config.model_copy(update={"steps": 7}), tmp_path / "run")
    poison(once_more, monkeypatch, "tsd", float("nan"))
    with pytest.raises(NonFiniteError, match=r"step 7.*3 updates were skipped so far, and max_skipped is 2"):
        once_more.run()


def test_a_skipped_update_leaves_the_moments_and_their_count_alone(tmp_path, monkeypatch):
    """A step that is skipped is as if it had not been, but for the learning rate, which follows the step."""
    config = distill_config(steps=3, max_skipped=1, lr_schedule={"name": "constant", "warmup_steps": 0}, log_every=1)
    made = trainer(config, tmp_path)
    poison(made, monkeypatch, "tsd", float("nan"), from_position=8)
    states = {}
    made.callbacks.on_step = lambda step, values: states.update(
        {step: {name: value.clone() for name, value in made.stepper.optimizers["student"].state().items()}}
    )
    made.run()
    assert states[2].keys() == states[3].keys()
    assert all(torch.equal(states[2][name], states[3][name]) for name in states[2])


def test_ema_is_the_average_that_is_kept(tmp_path):
    decay, config = 0.8, distill_config(steps=4, ema_decay=0.8)
    plain = trainer(distill_config(steps=4), tmp_path / "plain")
    average = {name: p.detach().clone() for name, p in plain.method.groups()[0].parameters.items()}

    def follow(step, values):
        for name, value in average.items():
            value.mul_(decay).add_(plain.method.groups()[0].parameters[name].detach(), alpha=1 - decay)

    plain.callbacks.on_step = follow
    plain.run()
    kept = run(config, tmp_path / "ema")
    for name, value in average.items():
        torch.testing.assert_close(kept.method.groups()[0].parameters[name].detach(), value, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_follows_the_schedule(tmp_path):
    rates = []
    made = trainer(distill_config(steps=6, log_every=1), tmp_path)
    made.callbacks.on_metrics = lambda step, values: rates.append(values["student_lr"])
    made.run()
    assert rates[:2] == pytest.approx([0.005, 0.01])  # warm-up; the first phase has 4 of the 6 steps
    assert rates[4] == pytest.approx(0.01)  # the second phase starts its own schedule
    assert all(b < a for a, b in pairwise(rates[1:4]))
    assert rates[5] < rates[4]


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
