"""Published test sets by name, one row each. Data sets with other names are scored too, without a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """A published test set.

    Attributes:
        name: in params.
        label: in tables.
        images: the number of images of the published scores.
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
    """The label in tables; a name without a row is its own label."""
    return DATASETS[name].label if name in DATASETS else name


def departures(name: str, images: int, sides: set[int]) -> list[str]:
    """The differences of a folder from the published test set of that name, if there is one.

    Args:
        name: of the data set.
        images: the number of scored images.
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
