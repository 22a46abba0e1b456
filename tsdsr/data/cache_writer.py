"""Write a latent cache shard by shard, so that an interrupted writer can be continued.

    <root>/cache/       the cache as it will be, see `tsdsr.data.cache`; its manifest comes last
    <root>/record.json  the key, and the finished shards; written after each

Only shards in the record count. The caller removes the root after publishing the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from tsdsr import files
from tsdsr.data.cache import (
    FORMAT,
    MANIFEST,
    NULL_PROMPT,
    CacheDtype,
    Sample,
    Shard,
    ShardedTable,
    damage,
    encode,
    read_prompt,
)
from tsdsr.models.prompt import Prompt

RECORD_BATCH_BYTES = 64 * 2**20  # most bytes in a writer's memory, except that one row may be larger
KINDS = {"prompts": "text", "latents": "id"}  # and the column that identifies their rows

Row = dict[str, Any]

logger = logging.getLogger(__name__)


class CacheWriter:
    """Add prompts, then samples, in a fixed order; then call `finish`.

    Args:
        root: used by this writer alone; finished shards of the same key are kept, everything else is removed.
        key: all values that affect the bytes.
        dtype: of the stored tensors.
        shard_rows: the maximum of rows per file.
    """

    def __init__(self, root: str | Path, *, key: str, dtype: CacheDtype, shard_rows: int) -> None:
        self.directory, self._record = Path(root) / "cache", Path(root) / "record.json"
        self._key, self._dtype, self._shard_rows = key, dtype, shard_rows
        self._shapes: dict[str, list[int]] = {}
        self._shards: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        self._take_over()
        self._texts = {text: row for row, text in enumerate(self._column("prompts"))}
        self._ids = set(self._column("latents"))

    @property
    def num_prompts(self) -> int:
        """The count so far, which is the number of the next one."""
        return len(self._texts)

    @property
    def num_samples(self) -> int:
        return len(self._ids)

    def prompt(self, text: str) -> Prompt:
        """One of the stored prompts."""
        return read_prompt(
            ShardedTable(self.directory, self._shards["prompts"]), self._texts[text], self._dtype, self._shapes
        )

    def add_prompts(self, prompts: Iterable[tuple[str, Prompt]]) -> None:
        """Write the prompts from number `num_prompts` to the last: distinct texts with their embeddings.

        Raises:
            ValueError: an entry is repeated or has a wrong shape.
            UserError: the disk is full; finished shards are kept.
        """
        self._add("prompts", self._prompt_rows(prompts))

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Write the samples from number `num_samples` to the last: equal in shape, each caption among the prompts.

        Raises: as `add_prompts`, and ValueError if a caption is not among the prompts.
        """
        self._add("latents", self._latent_rows(samples))

    def finish(self, *, default_prompt: str, origin: Mapping[str, Any]) -> Path:
        """Write the manifest, which completes the cache, and return the cache's directory.

        Args:
            default_prompt: the student's; it and the empty prompt must be among the prompts.
            origin: what the values were made from (the teacher's fingerprint, ...), for the manifest.
        """
        for text in (default_prompt, NULL_PROMPT):
            if text not in self._texts:
                raise ValueError(f"the prompt {text!r} is not among the prompts")
        for kind, shards in self._shards.items():
            if not shards:
                raise ValueError(f"there are no {kind} to write")
        manifest = {
            "format": FORMAT,
            "dtype": self._dtype,
            "shapes": self._shapes,
            "default_prompt": default_prompt,
            "origin": dict(origin),
            "shards": self._shards,
        }
        files.write_json(self.directory / MANIFEST, manifest)
        return self.directory

    # Continuing an earlier writer

    def _take_over(self) -> None:
        """Keep the recorded shards of this key up to the first damaged one; remove everything else."""
        try:
            record = files.read_json(self._record)
        except (FileNotFoundError, ValueError):
            record = {}
        if record.get("key") == self._key:
            self._shapes = record["shapes"]
            self._shards = {kind: self._good(record["shards"][kind]) for kind in KINDS}
        elif self.directory.exists():
            logger.info("%s has other inputs; starting from the beginning", self.directory)
        kept = {shard["file"] for shards in self._shards.values() for shard in shards}
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if path.name not in kept:
                path.unlink()

    def _good(self, shards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for number, shard in enumerate(shards):
            if reason := damage(self.directory, shard, verify=True):
                logger.warning("%s: %s; writing again from there", self.directory, reason)
                return shards[:number]
        return shards

    def _column(self, kind: str) -> list[str]:
        return [
            value for shard in self._shards[kind] for value in Shard(self.directory / shard["file"]).column(KINDS[kind])
        ]

    # Rows and shards

    def _add(self, kind: str, rows: Iterator[Row]) -> None:
        """Consume `rows` into files of at most `shard_rows`, recording each."""
        with files.telling_of_no_space(self.directory):
            while (first := next(rows, None)) is not None:
                path = self.directory / f"{kind}-{len(self._shards[kind]):05d}.arrow"
                count = _write_shard(path, first, islice(rows, self._shard_rows - 1))
                entry = {"file": path.name, "rows": count, "bytes": path.stat().st_size}
                self._shards[kind].append({**entry, "sha256": files.sha256_file(path)})
                files.write_json(self._record, {"key": self._key, "shapes": self._shapes, "shards": self._shards})

    def _prompt_rows(self, prompts: Iterable[tuple[str, Prompt]]) -> Iterator[Row]:
        for text, prompt in prompts:
            if text in self._texts:
                raise ValueError(f"the prompt {text!r} comes twice")
            self._texts[text] = len(self._texts)
            for name, tensor in (("embeds", prompt.embeds), ("pooled", prompt.pooled)):
                self._same_shape(name, tensor, text)
            embeds, pooled = (encode(tensor, self._dtype) for tensor in (prompt.embeds, prompt.pooled))
            yield {"text": text, "embeds": embeds, "pooled": pooled}

    def _latent_rows(self, samples: Iterable[Sample]) -> Iterator[Row]:
        for sample in samples:
            if sample.id in self._ids:
                raise ValueError(f"the sample {sample.id} comes twice")
            if sample.caption not in self._texts:
                raise ValueError(f"{sample.id}: its caption {sample.caption!r} is not among the prompts")
            self._ids.add(sample.id)
            tensors = {"latent": sample.latent}
            if sample.restored is not None:
                tensors["restored"] = sample.restored
            for name, tensor in tensors.items():
                self._same_shape(name, tensor, sample.id)
            stored = {name: encode(tensor, self._dtype) for name, tensor in tensors.items()}
            yield {"id": sample.id, "prompt": self._texts[sample.caption], **stored}

    def _same_shape(self, name: str, tensor: Tensor, label: str) -> None:
        wanted = self._shapes.setdefault(name, list(tensor.shape))
        if list(tensor.shape) != wanted:
            raise ValueError(f"{label}: {name} has shape {list(tensor.shape)}, the ones before have {wanted}")


def _write_shard(path: Path, first: Row, rest: Iterator[Row]) -> int:
    schema = pa.schema([(name, _arrow_type(value)) for name, value in first.items()])
    row_bytes = sum(len(value) for value in first.values() if isinstance(value, bytes))
    per_batch = max(1, RECORD_BATCH_BYTES // row_bytes)
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        batch = [first, *islice(rest, per_batch - 1)]
        while batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
            batch = list(islice(rest, per_batch))
    return count


def _arrow_type(value: Any) -> pa.DataType:
    if isinstance(value, bytes):
        return pa.binary(len(value))
    return pa.string() if isinstance(value, str) else pa.int32()
