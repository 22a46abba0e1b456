"""The student's networks as three ONNX graphs, run on a CPU by ONNX Runtime. Nothing here needs PyTorch.

`tsdsr export --onnx` writes them: `encoder.onnx`, `transformer.onnx`, `decoder.onnx` and `upscaler.json`. Large weights
are stored as float16, each behind a Cast that ONNX Runtime folds when it opens the graph: half the bytes on disk, and
float32 arithmetic, since most CPUs have no fast float16.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsdsr import files, machine
from tsdsr.errors import UserError
from tsdsr.inference.tiles.plan import Geometry

RECORD = "upscaler.json"
FORMAT = 1
GRAPHS = ("encoder", "transformer", "decoder")


@dataclass(frozen=True)
class Record:
    """The content of `upscaler.json`.

    Attributes:
        scale: the student's training scale.
        geometry: for the tiles.
        sha256: of each file.
        decoder_noise: of `tsdsr.models.student.Student`.
    """

    scale: float
    geometry: Geometry
    sha256: dict[str, str]
    decoder_noise: float = 0.0

    @classmethod
    def read(cls, directory: Path) -> Record:
        """Raises:
        UserError: the file is not such a record, or has another format.
        """
        path = directory / RECORD
        try:
            values = files.read_json(path)
            if values["format"] != FORMAT:
                raise UserError(f"{path}: format {values['format']!r}; this version reads {FORMAT}")
            noise = float(values.get("decoder_noise", 0.0))
            if not 0 <= noise < math.inf:
                raise ValueError(f"decoder_noise: {noise:g} is no standard deviation")
            return cls(float(values["scale"]), Geometry(**values["geometry"]), dict(values["sha256"]), noise)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: cannot be read ({error}); export the student again") from None

    def write(self, directory: Path) -> None:
        files.write_json(directory / RECORD, {"format": FORMAT, **dataclasses.asdict(self)})


class OnnxNetworks:
    """The networks for the engine (`tiles.engine.Networks`).

    Args:
        directory: of the graphs.
        threads: for each operation; the processors that this process may use by default.

    Raises:
        UserError: files are missing or damaged.
    """

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        record = Record.read(directory)
        self.geometry, self.decoder_noise = record.geometry, record.decoder_noise
        self._sessions = [_session(directory / f"{name}.onnx", record, threads or machine.cpus()) for name in GRAPHS]

    def encode(self, pixels: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        mode, deviation = self._run(0, pixels)
        return mode if noise is None else mode + deviation * noise

    def velocity(self, latents: np.ndarray) -> np.ndarray:
        return self._run(1, latents)[0]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return self._run(2, latents)[0]

    def free_bytes(self) -> float:
        return machine.available_memory()

    def item_bytes(self) -> int:
        return 4

    def _run(self, index: int, values: np.ndarray) -> list[np.ndarray]:
        session = self._sessions[index]
        try:
            found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(values)})
        except Exception as error:  # its exceptions have no common base class
            if "alloc" not in str(error).lower():
                raise
            raise MemoryError(str(error)) from error
        return found


def _session(path: Path, record: Record, threads: int) -> Any:
    import onnxruntime

    if not path.is_file():
        raise UserError(f"{path}: no such file; export the student again")
    if files.sha256_file(path) != record.sha256.get(path.name):
        raise UserError(f"{path}: damaged: its sha256 is not the one in {RECORD}; export the student again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
