"""Rows of a picture that arrive from the top down and are read back in any order; large ones are kept on disk."""

from __future__ import annotations

import tempfile
from types import TracebackType

import torch
from torch import Tensor

IN_MEMORY_BYTES = 16 * 2**20


class RowStore:
    """A picture (B, C, H, W) in float32, appended strip by strip; above `IN_MEMORY_BYTES` in a temporary file."""

    def __init__(self, batch: int, channels: int, width: int) -> None:
        self._row_shape = (batch, channels, width)
        self._row_bytes = 4 * batch * channels * width
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  closed in __exit__
        self.height = 0

    def append(self, strip: Tensor) -> None:
        """Add rows (B, C, n, W) at the bottom."""
        self._file.seek(self.height * self._row_bytes)
        self._file.write(memoryview(strip.detach().permute(2, 0, 1, 3).to("cpu", torch.float32).contiguous().numpy()))
        self.height += strip.shape[2]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) as (B, C, n, W)."""
        rows = torch.empty(stop - start, *self._row_shape)
        self._file.seek(start * self._row_bytes)
        view = memoryview(rows.numpy()).cast("B")
        while len(view) and (count := self._file.readinto(view)):
            view = view[count:]
        return rows.permute(1, 2, 0, 3)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()
