"""How visible the borders of tiles are in a picture: gradient energy on them against elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def seam_score(picture: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """Mean squared difference of neighbouring pixels across the given borders, over that across all others.

    Args:
        picture: (B, C, H, W).
        rows, columns: borders: the first row (column) of each tile but the first, and one past the last row (column)
            of each tile but the last.

    Returns:
        1 where borders are like everything else, more where they show. A picture's own content moves it too: compare
        it with the score of the same picture made without tiles.
    """
    on, off = 0.0, 0.0
    count_on, count_off = 0, 0
    for axis, borders in ((-2, rows), (-1, columns)):
        energy = picture.double().diff(dim=axis).square().mean(dim=[d for d in range(-4, 0) if d != axis])
        marked = torch.zeros(len(energy), dtype=torch.bool)
        marked[[border - 1 for border in borders]] = True
        on, count_on = on + float(energy[marked].sum()), count_on + int(marked.sum())
        off, count_off = off + float(energy[~marked].sum()), count_off + int((~marked).sum())
    return (on / count_on) / (off / count_off)
