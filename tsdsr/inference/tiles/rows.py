"""Rows of a picture, written from the top down and read in any order; large pictures are kept on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from tsdsr.errors import UserError
from tsdsr.files import is_no_space, no_space

IN_MEMORY_BYTES = 16 * 2**20


class RowStore:
    """A picture (B, C, H, W) in float32, appended strip by strip; above `IN_MEMORY_BYTES` in a temporary file."""

    def __init__(self, batch: int, channels: int, width: int) -> None:
        self._row_shape = (batch, channels, width)
        self._row_bytes = 4 * batch * channels * width
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  closed in __exit__
        self.height = 0

    def append(self, strip: np.ndarray) -> None:
        """Add rows (B, C, n, W) at the bottom.

        Raises:
            UserError: the temporary folder is full.
        """
        values = np.ascontiguousarray(strip.transpose(2, 0, 1, 3), np.float32)
        try:
            self._file.seek(self.height * self._row_bytes)
            self._file.write(values.data)
        except OSError as error:
            if not is_no_space(error):
                raise
            raise UserError(f"{no_space(Path(tempfile.gettempdir(), 'rows'))}; TMPDIR names another folder") from error
        self.height += strip.shape[2]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as (B, C, n, W)."""
        rows = np.empty((stop - start, *self._row_shape), np.float32)
        self._file.seek(start * self._row_bytes)
        view = rows.data.cast("B")
        while len(view) and (count := self._file.readinto(view)):
            view = view[count:]
        return rows.transpose(1, 2, 0, 3)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()
