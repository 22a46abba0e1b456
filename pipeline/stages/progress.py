"""The progress bar of a training."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

from tqdm.contrib.logging import logging_redirect_tqdm


class Progress:
    """A bar with the loss terms and the time left, as a context manager; for a Ray worker the driver draws it."""

    def __init__(self, title: str, total: int, *, in_ray: bool = False) -> None:
        self._title, self._total, self._in_ray = title, total, in_ray
        self._stack = ExitStack()
        self._bar: Any = None
        self._shown = ""

    def __enter__(self) -> Self:
        if not self._in_ray:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stack.close()

    def show(self, step: int, values: dict[str, float]) -> None:
        if self._bar is None:
            self._bar = self._make(done=step - 1)
        terms = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        shown = f"{self._title} {terms}".rstrip()
        if shown != self._shown:  # a new text redraws the bar at once
            self._bar.set_description(shown)
            self._shown = shown
        self._bar.update(1)

    def _make(self, done: int) -> Any:
        """The time left is estimated from the steps of this run."""
        if self._in_ray:
            from ray.experimental import tqdm_ray

            bar = tqdm_ray.tqdm(total=self._total)
            bar.update(done)
            return bar
        from tqdm import tqdm

        return tqdm(total=self._total, initial=done, mininterval=1.0, unit="step")
