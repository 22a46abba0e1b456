"""The plain training loop: goes on exactly where it was, stops when asked, does nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.teacher_loop import CURVE_EVERY, Session, Values, descend

STEPS = 34


class Line:
    """y = x w, to be found from noisy draws that belong to their step."""

    def __init__(self) -> None:
        self.parameters = {"w": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(()))}
        self.seen: list[int] = []

    def losses(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(step)
        x = torch.randn(5, 3, generator=seeding.generator(0, step))
        error = (x @ self.parameters["w"] + self.parameters["b"] - x.sum(1) - 2).pow(2).mean()
        return error, {"error": error}

    def train(self, folder: Path, *, stop: Callable[[], bool] = lambda: False, every: int = 8) -> list[Values]:
        store = CheckpointStore(folder, "key", keep=2)
        session = Session(store, every, on_step=lambda step, values: None, stop=stop)
        return descend(self.parameters, self.losses, learning_rate=0.1, steps=STEPS, session=session)


@pytest.mark.parametrize("at", [1, 9, 10, 33])
def test_stopped_after_any_step_it_goes_on_exactly(tmp_path, at):
    whole, stopped, going_on = Line(), Line(), Line()
    curve = whole.train(tmp_path / "whole")
    with pytest.raises(Stopped, match=f"stopped after step {at} of {STEPS}; its checkpoint is saved"):
        stopped.train(tmp_path / "stopped", stop=lambda: len(stopped.seen) == at)
    assert going_on.train(tmp_path / "stopped") == curve
    assert going_on.seen == list(range(at + 1, STEPS + 1))
    for name, parameter in whole.parameters.items():
        assert torch.equal(going_on.parameters[name], parameter)


def test_a_finished_training_is_not_done_again(tmp_path):
    whole, again = Line(), Line()
    curve = whole.train(tmp_path)
    assert again.train(tmp_path) == curve
    assert again.seen == []
    assert torch.equal(again.parameters["w"], whole.parameters["w"])


def test_it_descends_and_its_curve_averages_whole_windows(tmp_path):
    curve = Line().train(tmp_path)
    assert [row["step"] for row in curve] == [CURVE_EVERY, 2 * CURVE_EVERY, 3 * CURVE_EVERY]
    assert curve[-1]["error"] < curve[0]["error"] / 4


def test_a_request_at_the_last_step_stops_nothing(tmp_path):
    line = Line()
    line.train(tmp_path, stop=lambda: len(line.seen) == STEPS)
    assert len(line.seen) == STEPS
