"""The latent cache: HQ latents and prompt embeddings, computed once, in memory-mapped Arrow shards.

    manifest.json            format, dtype, shapes, the teacher's fingerprint, and every shard's rows, bytes and sha256
    latents-00000.arrow ...  columns id (string), prompt (int32, a row of the prompts), latent (raw bytes), and restored
                             (raw bytes) where the teacher restores
    prompts-00000.arrow ...  columns text (string), embeds (raw bytes), pooled (raw bytes); each distinct text once

Tensors are little-endian float32, or bfloat16 (half the size; what SD3 runs in). Arrow's IPC file format is read
through the page cache without parsing: rows are addressed at random, and any number of processes share the memory.
Nothing is pickled. Equal input gives equal bytes.

Legend: C h w a latent's channels and sides, L prompt tokens, D their width, P pooled width.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.models.prompt import Prompt

MANIFEST = "manifest.json"
FORMAT = 1
NULL_PROMPT = ""
MIRRORED = "~mirrored"  # suffix of the ids of mirrored images

CacheDtype = Literal["float32", "bfloat16"]
# Stored dtypes: torch's, and a numpy integer of the same width.
DTYPES: Mapping[str, tuple[torch.dtype, torch.dtype]] = {
    "float32": (torch.float32, torch.int32),
    "bfloat16": (torch.bfloat16, torch.int16),
}


@dataclass(frozen=True)
class Sample:
    """The entry of a training image."""

    id: str
    caption: str
    latent: Tensor  # [C,h,w]
    restored: Tensor | None = None  # [2,C,h,w], see `LatentCache.restored`


class LatentCache:
    """Random access to a cache directory, for any number of processes; every read returns a copy."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self._latents = ShardedTable(directory, manifest["shards"]["latents"])
        self._prompts = ShardedTable(directory, manifest["shards"]["prompts"])

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = True) -> LatentCache:
        """Open a cache.

        Args:
            directory: written by `tsdsr.data.cache_writer`.
            verify: compare every shard's sha256; otherwise only the sizes are compared.

        Raises:
            UserError: shards are damaged or missing, or the directory is not a cache of this version.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory / MANIFEST)
        shards = [shard for kind in manifest["shards"].values() for shard in kind]
        with ThreadPoolExecutor() as pool:
            problems = [text for text in pool.map(lambda shard: damage(directory, shard, verify), shards) if text]
        if problems:
            raise UserError(f"{directory}: damaged: {'; '.join(problems)}; run `dvc repro precompute` again")
        return cls(directory, manifest)

    def __len__(self) -> int:
        return self._latents.rows

    @cached_property
    def ids(self) -> list[str]:
        """The samples' ids, in the order of their numbers."""
        return self._latents.column("id")

    @cached_property
    def texts(self) -> list[str]:
        """The distinct prompts."""
        return self._prompts.column("text")

    def latent(self, index: int) -> Tensor:
        """The latent of sample `index`: float32 [C,h,w]."""
        return self._tensor(self._latents.value(index, "latent"), "latent")

    @property
    def restores(self) -> bool:
        """Whether it contains a restoring teacher's outputs."""
        return "restored" in self.manifest["shapes"]

    def restored(self, index: int) -> Tensor:
        """A restoring teacher's output and input for sample `index`: z_tea and z_L, float32 [2,C,h,w]."""
        return self._tensor(self._latents.value(index, "restored"), "restored")

    def prompt(self, index: int) -> Prompt:
        """The embeddings of sample `index`'s caption, in the cache's dtype."""
        return self._prompt(self.prompt_index(index))

    def prompt_index(self, index: int) -> int:
        """The index in `texts` of the caption of sample `index`."""
        return int(self._latents.value(index, "prompt").as_py())

    @cached_property
    def default(self) -> Prompt:
        """The student's default prompt, float32."""
        stored = self._named(self.manifest["default_prompt"])
        return Prompt(stored.embeds.float(), stored.pooled.float())

    @cached_property
    def null(self) -> Prompt:
        """The empty prompt of guidance, in the cache's dtype."""
        return self._named(NULL_PROMPT)

    def _named(self, text: str) -> Prompt:
        return self._prompt(self.texts.index(text))

    def _prompt(self, row: int) -> Prompt:
        return read_prompt(self._prompts, row, self.manifest["dtype"], self.manifest["shapes"])

    def _tensor(self, value: Any, name: str) -> Tensor:
        return decode(value.as_buffer(), self.manifest["dtype"], self.manifest["shapes"][name]).float()


def mirrored(name: str) -> str:
    """The id of the latent of a pair's mirrored image: encoding does not commute with mirroring."""
    return f"{name}{MIRRORED}"


def encode(tensor: Tensor, dtype: str) -> bytes:
    """A tensor's stored bytes."""
    stored, integer = DTYPES[dtype]
    return tensor.detach().cpu().to(stored).contiguous().view(integer).numpy().tobytes()


def decode(buffer: Any, dtype: str, shape: Sequence[int]) -> Tensor:
    """Stored bytes -> a copy, of `dtype`."""
    stored, integer = DTYPES[dtype]
    source = np.frombuffer(buffer, dtype=np.int32 if integer is torch.int32 else np.int16)
    # Into torch's memory: above 4 MB numpy requests huge pages, and clearing those takes longer than the copy.
    values = torch.empty(source.size, dtype=integer)
    values.numpy()[:] = source
    return values.view(stored).reshape(*shape)


def read_prompt(prompts: ShardedTable, row: int, dtype: str, shapes: Mapping[str, Sequence[int]]) -> Prompt:
    """A row of the prompts, of `dtype`."""
    embeds, pooled = (
        decode(prompts.value(row, name).as_buffer(), dtype, shapes[name]) for name in ("embeds", "pooled")
    )
    return Prompt(embeds, pooled)


@dataclass
class ShardedTable:
    """Rows in several shards, each mapped into memory at its first use."""

    directory: Path
    shards: list[dict[str, Any]]
    _open: dict[int, Shard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(shard["rows"] for shard in self.shards))

    @property
    def rows(self) -> int:
        return self._ends[-1]

    def value(self, index: int, column: str) -> Any:
        """One cell, as an Arrow scalar that references the mapped file."""
        if not 0 <= index < self.rows:
            raise IndexError(f"row {index} of {self.rows}")
        number = bisect.bisect_right(self._ends, index)
        return self._shard(number).value(index - (self._ends[number - 1] if number else 0), column)

    def column(self, name: str) -> list[Any]:
        return [value for number in range(len(self.shards)) for value in self._shard(number).column(name)]

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = Shard(self.directory / self.shards[number]["file"])
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:  # a pickled copy maps the files again
        return {**self.__dict__, "_open": {}}


class Shard:
    """One Arrow file, mapped read-only."""

    def __init__(self, path: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: damaged: {error}; run `dvc repro precompute` again") from None
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def value(self, index: int, column: str) -> Any:
        number = bisect.bisect_right(self._ends, index)
        return self._batches[number].column(column)[index - (self._ends[number - 1] if number else 0)]

    def column(self, name: str) -> list[Any]:
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = files.read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{path.parent}: not a latent cache ({MANIFEST} is missing); run `dvc repro precompute`"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: damaged: not valid JSON ({error}); run `dvc repro precompute` again") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest


def damage(directory: Path, shard: Mapping[str, Any], verify: bool) -> str | None:
    """The fault of a shard, with its name; None if there is none."""
    path = directory / shard["file"]
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != shard["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes instead of {shard['bytes']}"
    if verify and files.sha256_file(path) != shard["sha256"]:
        return f"{path.name} does not match its sha256"
    return None
