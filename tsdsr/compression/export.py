"""The two ends of a compression: the student as a plain source, and the compressed student as an upscaler."""

from __future__ import annotations

from pathlib import Path

import torch

from tsdsr import files
from tsdsr.compression.cut import without_text
from tsdsr.export.plain import STEP_FILE, export_plain
from tsdsr.inference.networks.fold import streamline
from tsdsr.inference.pipeline import TSDSRPipeline
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.student import read_prompt
from tsdsr.models.teacher import FORMAT, RECORD


def write_source(teacher: str | Path, student: Path, directory: Path) -> str:
    """Merge a student's adapters into its teacher and write the result, in the SD3 format without text encoders.

    Returns:
        sha256 of the transformer's weights.

    Raises:
        UserError: as `export_plain`.
    """
    with files.atomic_directory(directory) as aside:
        export_plain(teacher, student, aside, dtype=torch.float32)
        files.write_json(aside / RECORD, {"format": FORMAT, "source": None})  # `load_teacher` opens it
    return source_hash(directory)


def source_hash(directory: Path) -> str:
    """sha256 over the files of a source's transformer."""
    weights = sorted((directory / "transformer").glob("*.safetensors"))
    return files.sha256_json([[path.name, files.sha256_file(path)] for path in weights])


def write_compressed(source: Path, transformer: Path, vae: Path | None, directory: Path) -> int:
    """Streamline the restored transformer and write it with the compact autoencoder, as an upscaler.

    Args:
        source: of `write_source`. transformer: in the SD3 format. vae: a `CompactVAE`'s; None = the source's own.
        directory: `tsdsr upscale --model` opens it.

    Returns:
        its parameters.
    """
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    restored = SD3Transformer2DModel.from_pretrained(transformer)
    slim = streamline(restored, without_text(read_prompt(source)))
    step = files.read_json(source / STEP_FILE)
    own = vae is None
    codec = AutoencoderKL.from_pretrained(source / "vae") if vae is None else CompactVAE.from_pretrained(vae)
    noise = step["decoder_noise"] if own else 0.0  # a compact one learns pictures that were made without
    use_shift, scale = own and step["use_shift"], int(step["scale"])
    pipe = TSDSRPipeline(codec, slim, use_shift=use_shift, scale=scale, decoder_noise=noise)
    with files.atomic_directory(directory) as aside:
        pipe.save_pretrained(aside)
    return sum(parameter.numel() for network in (pipe.vae, pipe.transformer) for parameter in network.parameters())
