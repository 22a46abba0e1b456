"""What a distillation shows of itself while it runs."""

from __future__ import annotations

from typing import Any

from tsdsr.losses.registry import LOSSES


class Progress:
    """A bar with the loss terms and the time left; in a Ray worker it is drawn by the driver."""

    def __init__(self, name: str, total: int, *, in_ray: bool) -> None:
        self._name, self._total, self._in_ray = name, total, in_ray
        self._bar: Any = None
        self._shown = ""

    def show(self, step: int, values: dict[str, float]) -> None:
        if self._bar is None:
            if self._in_ray:
                from ray.experimental import tqdm_ray

                self._bar = tqdm_ray.tqdm(total=self._total)
            else:
                from tqdm import tqdm

                self._bar = tqdm(total=self._total, mininterval=1.0)
            self._bar.update(step - 1)
        terms = " ".join(f"{name} {values[name]:.4g}" for name in (*LOSSES, "fake_score") if name in values)
        shown = f"distill {self._name} {terms}".rstrip()
        if shown != self._shown:  # each new text draws the bar at once, whatever its interval
            self._bar.set_description(shown)
            self._shown = shown
        self._bar.update(1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
