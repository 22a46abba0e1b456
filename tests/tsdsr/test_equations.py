"""The table equation -> symbol of docs/distillation.md names what there is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/distillation.md").read_text(encoding="utf-8")


def resolve(path: str) -> object:
    """The object of a dotted path: the longest module, then attributes."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


def test_every_equation_has_a_symbol_that_exists() -> None:
    table = TEXT.partition("### Equation by equation")[2].partition("\n\n")[2].partition("\n\n")[0]
    symbols = re.findall(r"`(tsdsr\.[\w.]+)`", table)
    assert all(callable(resolve(symbol)) for symbol in symbols)
    for number in range(3, 10):
        assert f"Eq. ({number})" in table
    assert all("`tsdsr." in row for row in table.splitlines()[2:])
