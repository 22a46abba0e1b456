"""The decision file: which blocks of a student are kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tsdsr import files
from tsdsr.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Decision:
    """The blocks to keep.

    Attributes:
        decider: its name.
        blocks: the indices of the kept blocks, in ascending order.
        scores: one per block of the source (probabilities, norms ...); blocks with larger ones are kept.
        groups: the blocks of each group; one group of all blocks if there are no groups.
        source: sha256 of the source's transformer weights.
    """

    decider: str
    blocks: tuple[int, ...]
    scores: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]
    source: str

    def __post_init__(self) -> None:
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)) or self.blocks[-1] >= len(self.scores):
            raise ValueError(f"blocks must ascend within 0..{len(self.scores) - 1}, found {list(self.blocks)}")

    def write(self, path: str | Path) -> None:
        files.write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: str | Path) -> Decision:
        """Read a decision file.

        Raises:
            UserError: it is missing, damaged or of another format.
        """
        try:
            values: dict[str, Any] = files.read_json(path)
            if values.pop("format", None) != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            for name in ("blocks", "scores"):
                values[name] = tuple(values[name])
            values["groups"] = tuple(tuple(group) for group in values["groups"])
            return cls(**values)
        except FileNotFoundError:
            raise UserError(f"{path}: no such decision file; `python -m pipeline.compress prune` writes it") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a decision file: {error}") from None
