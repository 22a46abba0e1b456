"""What the trainer promises to any method, shown by one that fits two lines and knows no network of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import AdamWConfig, PhaseConfig, ScheduleConfig
from tsdsr.methods.base import Group, Method, Moment, Turn, TurnOutput
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.trainer import Callbacks, Plan, Trainer

STEPS = 34
ADAMW = AdamWConfig(weight_decay=0.0, betas=(0.9, 0.99), clip_norm=1.0)


class Positions:
    """A batch is its positions."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to(self, device: torch.device) -> Positions:
        return self

    @staticmethod
    def prefetched(wanted: Any) -> Any:
        return map(Positions, wanted)


class Line(Turn):
    """y = x w + b, to be found from noisy draws; two groups with learning rates of their own."""

    name = "line"

    def __init__(self) -> None:
        self.network = nn.Linear(3, 1)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)
        self.seen: list[int] = []
        self.calls = torch.zeros(())
        self.groups = [
            self._group("slope", {"w": self.network.weight}, 0.1, averaged=True, buffers={"calls": self.calls}),
            self._group("height", {"b": self.network.bias}, 0.3),
        ]

    @staticmethod
    def _group(name: str, parameters: dict[str, nn.Parameter], lr: float, **options: Any) -> Group:
        schedule = ScheduleConfig(name="cosine_with_restarts", warmup_steps=3, cycles=1)
        return Group(name, parameters, lr, ADAMW, schedule, **options)

    def run(self, batch: Positions, moment: Moment) -> TurnOutput:
        self.seen.append(moment.step + 1)
        self.calls += 1
        x = torch.randn(5, 3, generator=seeding.generator(0, batch.values[0]))
        y: Tensor = self.network(x)
        error = (y[:, 0] - x.sum(1) - 2).pow(2).mean()
        (moment.share * error).backward()
        return TurnOutput({"error": error.detach()}, carried={"y": y.detach()})


class Follower(Turn):
    """A number that follows what the line said in this step; twice a step, in every second step."""

    name = "follower"
    updates, every = 2, 2

    def __init__(self) -> None:
        self.network = nn.ParameterList([nn.Parameter(torch.zeros(()))])
        self.seen: list[tuple[int, int]] = []
        self.groups = [Line._group("mean", {"m": self.network[0]}, 0.05)]

    def run(self, batch: Positions, moment: Moment) -> TurnOutput:
        self.seen.append((moment.step, moment.update))
        loss = (moment.carried["y"].mean() - self.network[0]).pow(2)
        (moment.share * loss).backward()
        return TurnOutput({"distance": loss.detach()})


class Toy(Method):
    def __init__(self) -> None:
        self.line, self.follower = Line(), Follower()
        self.turns = (self.line, self.follower)

    def state(self) -> dict[str, Tensor]:
        return {name: value for group in self.groups() for name, value in {**group.parameters, **group.buffers}.items()}


def train(method: Toy, folder: Path, *, stop: Callable[[], bool] = lambda: False, **changes: Any) -> Trainer:
    phases = {"all": PhaseConfig(share=1.0, losses={"error": 1.0})}
    plan = Plan(
        **{"steps": STEPS, "batch_size": 4, "phases": phases, "log_every": 10, "checkpoint_every": 8, "ema_decay": 0.5}
        | changes
    )
    store = CheckpointStore(folder, "key", keep=2)
    made = Trainer(method, Positions, store, plan=plan, device=torch.device("cpu"), callbacks=Callbacks(stop=stop))
    made.run()
    return made


@pytest.mark.parametrize("at", [1, 9, 10, 33])
def test_stopped_after_any_step_it_goes_on_exactly(tmp_path, at):
    whole, stopped, going_on = Toy(), Toy(), Toy()
    history = train(whole, tmp_path / "whole").history
    with pytest.raises(Stopped, match=f"stopped after step {at} of {STEPS}; its checkpoint is saved"):
        train(stopped, tmp_path / "stopped", stop=lambda: len(stopped.line.seen) == at)
    assert train(going_on, tmp_path / "stopped").history == history
    assert going_on.line.seen == list(range(at + 1, STEPS + 1))
    found, wanted = going_on.state(), whole.state()
    assert found.keys() == wanted.keys() == {"w", "b", "m", "calls"}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert float(whole.line.calls) == STEPS


def test_a_finished_training_is_not_done_again(tmp_path):
    whole, again = Toy(), Toy()
    history = train(whole, tmp_path).history
    assert train(again, tmp_path).history == history
    assert again.line.seen == []
    assert all(torch.equal(again.state()[name], value) for name, value in whole.state().items())


def test_it_descends_and_its_curve_averages_windows(tmp_path):
    history = train(Toy(), tmp_path).history
    assert [row["step"] for row in history] == [10, 20, 30, STEPS]
    assert history[-1]["error"] < history[0]["error"] / 4
    assert {"slope_lr", "height_lr", "mean_lr", "slope_grad_norm", "mean_grad_norm", "distance"} <= history[0].keys()
    assert history[0]["height_lr"] == pytest.approx(3 * history[0]["slope_lr"])


def test_a_turn_has_its_own_frequency_and_sees_what_came_before(tmp_path):
    toy = Toy()
    train(toy, tmp_path, steps=5)
    assert toy.follower.seen == [(step, update) for step in (0, 2, 4) for update in (0, 1)]


def test_the_average_is_that_of_the_averaged_group_alone(tmp_path):
    plain, averaged = Toy(), Toy()
    train(plain, tmp_path / "plain", ema_decay=0.0)
    train(averaged, tmp_path / "averaged")
    assert not torch.equal(plain.state()["w"], averaged.state()["w"])
    assert torch.equal(plain.state()["b"], averaged.state()["b"])


def test_a_request_at_the_last_step_stops_nothing(tmp_path):
    toy = Toy()
    train(toy, tmp_path, stop=lambda: len(toy.line.seen) == STEPS)
    assert len(toy.line.seen) == STEPS
