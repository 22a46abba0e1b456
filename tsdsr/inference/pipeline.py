"""`TSDSRPipeline`: the one-step upscaler as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError

from tsdsr.errors import UserError
from tsdsr.inference import batches
from tsdsr.inference.loading import load_networks
from tsdsr.inference.networks.in_torch import TorchNetworks, geometry_of
from tsdsr.inference.networks.quick_vae import use_fast_forward
from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.inference.sizes import TargetSize
from tsdsr.inference.upscaler import Color, Tiling, Upscaler
from tsdsr.models.codec import LatentCodec
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.teacher import check_whole


class TSDSRPipeline(DiffusionPipeline):
    """Enlarge pictures in one step of the student.

        pipe = TSDSRPipeline.from_pretrained("data/teacher", student="data/students/full")
        pipe(Image.open("photo.jpg"), scale=4).images[0].save("out.png")

    Args:
        vae: the student's, its adapter merged; a compressed student's compact one.
        transformer: the student's, streamlined.
        use_shift: whether latents were trained with the VAE's shift subtracted.
        scale: the enlargement that the student was trained at; the default of a call.
        decoder_noise: of `tsdsr.models.student.Student`.

    Source: TSD-SR, arXiv 2411.18263, Sec. 3.1.
    """

    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self,
        vae: AutoencoderKL | CompactVAE,
        transformer: StreamlinedTransformer,
        use_shift: bool = False,
        scale: int = 4,
        decoder_noise: float = 0.0,
    ) -> None:
        super().__init__()
        use_fast_forward(vae)
        self.register_modules(vae=vae, transformer=transformer)
        self.register_to_config(use_shift=use_shift, scale=scale, decoder_noise=decoder_noise)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, student: str | Path | None = None, **options: Any
    ) -> Self:
        """Load a teacher and a student, or (without `student`) a directory that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: the teacher's directory or hub id; or a saved pipeline's.
            student: a student directory: `transformer.safetensors`, `vae.safetensors`, `student.json`,
                `prompt.safetensors`.
            options: `dtype` or its old name `torch_dtype` (default: float32); without a student also diffusers' other
                options.

        Raises:
            UserError: a directory is missing, damaged or of another kind.
        """
        if student is None:
            return cls._from_saved(str(pretrained_model_name_or_path), options)
        named = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
        dtype = named[0] or named[1] or torch.float32
        if options:
            raise TypeError(f"with a student there is no option {', '.join(options)}")
        vae, transformer, config = load_networks(pretrained_model_name_or_path, student, dtype=dtype)
        use_shift, scale = bool(config["use_shift"]), int(config["scale"])
        return cls(vae, transformer, use_shift=use_shift, scale=scale, decoder_noise=config["decoder_noise"])

    @classmethod
    def _from_saved(cls, source: str, options: dict[str, Any]) -> Self:
        try:
            pipe = super().from_pretrained(source, **options)
        except (OSError, ValueError, TypeError, SafetensorError) as error:  # a config that lacks keys gives a TypeError
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{source}: cannot be read as an upscaler ({reason}); for a teacher, name a student too"
            ) from error
        if not isinstance(pipe.transformer, StreamlinedTransformer):
            raise UserError(f"{source}: is not an upscaler; for a teacher, name a student too")
        if "device_map" not in options:
            for part in ("vae", "transformer"):
                check_whole(source, part, getattr(pipe, part))
        return pipe

    def __call__(
        self,
        image: batches.Images,
        scale: float | None = None,
        *,
        size: tuple[int, int] | None = None,
        color: Color = "wavelet",
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        tile_batch: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Enlarge one or more pictures.

        Args:
            image: a PIL image or a list of them; an array (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1]; or a
                tensor (3, H, W) or (B, 3, H, W) in [0, 1].
            scale: enlargement of both sides, 1 to 8 (default: the student's training scale).
            size: (H, W) of the result in pixels, instead of a scale.
            color: colour alignment with the bicubic enlargement.
            tile: a tile's side in pixels of the result; "auto": by the available memory; None: no tiles.
            overlap: pixels that neighbouring tiles share (default: a quarter of a tile).
            tile_batch: number of tiles in a batch.
            generator: samples the encoder's posterior; None: its mode is taken, and the result is deterministic.
            output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), the latter two float32 in [0, 1].
            return_dict: return an `ImagePipelineOutput`, or a tuple.

        Raises:
            UserError: the picture, size or tile is invalid.
        """
        if output_type not in batches.OUTPUTS:
            raise UserError(f"output_type {output_type!r}: must be one of {', '.join(batches.OUTPUTS)}")
        height, width = size or (None, None)
        target = TargetSize(self.config.scale if scale is None and size is None else scale, width, height)
        upscaler, results = self.upscaler(), []
        for pictures in batches.arrays(image):
            with self._progress() as step:
                strips = upscaler.strips(
                    pictures,
                    target.of(pictures.shape[3], pictures.shape[2]),
                    color=color,
                    tiling=Tiling(tile, overlap, tile_batch),
                    noise=None if generator is None else _draws(generator),
                    step=step,
                )
                results.append(np.concatenate(list(strips), axis=2))
        images = batches.OUTPUTS[output_type](results)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def upscaler(self) -> Upscaler:
        """The upscaler for NumPy arrays, with the networks on their present device."""
        dtype = self.transformer.dtype
        codec = LatentCodec(self.vae, bool(self.config.use_shift))
        networks = TorchNetworks(
            codec,
            lambda z: self.transformer(z.to(dtype)),
            geometry_of(codec, self.transformer),
            self._execution_device,
            float(self.config.decoder_noise),
        )
        return Upscaler(networks, float(self.config.scale))

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int, int], None]]:
        """diffusers' bar, as a function of (tiles done, tiles in all)."""
        bars: list[Any] = []

        def step(done: int, total: int) -> None:
            if not bars:
                bars.append(self.progress_bar(total=total))
            bars[0].update(done - bars[0].n)

        yield step
        for bar in bars:
            bar.close()


def _draws(generator: torch.Generator | list[torch.Generator]) -> Callable[[tuple[int, ...]], np.ndarray]:
    def draw(shape: tuple[int, ...]) -> np.ndarray:
        drawn: np.ndarray = randn_tensor(shape, generator, torch.device("cpu"), torch.float32).numpy()
        return drawn

    return draw
