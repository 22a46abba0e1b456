"""Test sets by name: one row each. A name that is not here is scored all the same; it only is not checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """A published test set.

    Attributes:
        name: as params spell it.
        label: as tables print it.
        images: how many the published scores are means over.
        side: of its HQ images, in pixels.
    """

    name: str
    label: str
    images: int
    side: int


# TSD-SR, arXiv 2411.18263, Sec. 4.1: x4, 128 -> 512.
_ROWS = (
    Dataset("div2k_val", "DIV2K-Val", 3000, 512),
    Dataset("drealsr", "DRealSR", 93, 512),
    Dataset("realsr", "RealSR", 100, 512),
)

DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}


def label(name: str) -> str:
    """As tables print it; a name without a row stands for itself."""
    return DATASETS[name].label if name in DATASETS else name


def departures(name: str, images: int, sides: set[int]) -> list[str]:
    """How a folder departs from the published test set of that name; empty where it does not, or there is none.

    Args:
        name: of the data set.
        images: how many were scored.
        sides: every height and width among them, in pixels.
    """
    row = DATASETS.get(name)
    if row is None:
        return []
    found = []
    if images != row.images:
        found.append(f"{images} images; the published scores of {row.label} are over {row.images}")
    if sides != {row.side}:
        sizes = ", ".join(map(str, sorted(sides)))
        found.append(f"sides of {sizes} px; the published scores of {row.label} are at {row.side} px")
    return found
