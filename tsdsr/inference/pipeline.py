"""`TSDSRPipeline`: the one-step upscaler as a diffusers pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError
from torch import Tensor

from tsdsr.errors import UserError
from tsdsr.inference import batches
from tsdsr.inference.color import ALIGNMENTS
from tsdsr.inference.loading import load_networks
from tsdsr.inference.networks.quick_vae import quicken
from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.inference.sizes import TargetSize
from tsdsr.inference.tiles.engine import Networks, Source, TilePlan, aligned_strips, passes, restore
from tsdsr.inference.tiles.memory import is_out_of_memory, plan_tiles, smaller
from tsdsr.inference.tiles.rows import RowStore
from tsdsr.models.codec import LatentCodec
from tsdsr.models.teacher import check_whole

logger = logging.getLogger(__name__)
Color = Literal["wavelet", "adain", "none"]


class TSDSRPipeline(DiffusionPipeline):
    """Enlarge pictures in one step of the student.

        pipe = TSDSRPipeline.from_pretrained("data/teacher", student="data/students/full")
        pipe(Image.open("photo.jpg"), scale=4).images[0].save("out.png")

    Args:
        vae: the student's, its adapter merged.
        transformer: the student's, streamlined.
        use_shift: whether latents were trained with the VAE's shift subtracted.
        scale: the enlargement that the student was trained at; the default of a call.

    Source: TSD-SR, arXiv 2411.18263, Sec. 3.1.
    """

    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self, vae: AutoencoderKL, transformer: StreamlinedTransformer, use_shift: bool = False, scale: int = 4
    ) -> None:
        super().__init__()
        quicken(vae)
        self.register_modules(vae=vae, transformer=transformer)
        self.register_to_config(use_shift=use_shift, scale=scale)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, student: str | Path | None = None, **options: Any
    ) -> Self:
        """Load a teacher and a student, or (without `student`) a directory that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: the teacher's directory or hub id; or a saved pipeline's.
            student: a student directory: `transformer.safetensors`, `vae.safetensors`, `student.json`,
                `prompt.safetensors`.
            options: `dtype` or, as it was called, `torch_dtype` (float32 by default); without a student also diffusers'
                other options.

        Raises:
            UserError: for a directory that is missing, damaged or of another kind.
        """
        if student is None:
            return cls._from_saved(str(pretrained_model_name_or_path), options)
        named = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
        dtype = named[0] or named[1] or torch.float32
        if options:
            raise TypeError(f"with a student there is no option {', '.join(options)}")
        vae, transformer, config = load_networks(pretrained_model_name_or_path, student, dtype=dtype)
        return cls(vae, transformer, use_shift=bool(config["use_shift"]), scale=int(config["scale"]))

    @classmethod
    def _from_saved(cls, source: str, options: dict[str, Any]) -> Self:
        try:
            pipe = super().from_pretrained(source, **options)
        except (OSError, ValueError, TypeError, SafetensorError) as error:  # a TypeError for a config without its keys
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{source}: cannot be read as an upscaler ({reason}); for a teacher, name a student too"
            ) from error
        if not isinstance(pipe.transformer, StreamlinedTransformer):
            raise UserError(f"{source}: is no upscaler; for a teacher, name a student too")
        if "device_map" not in options:
            for part in ("vae", "transformer"):
                check_whole(source, part, getattr(pipe, part))
        return pipe

    @torch.no_grad()
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
            scale: enlargement of both sides, 1 to 8; what the student was trained at by default.
            size: (H, W) of the result in pixels, instead of a scale.
            color: colour alignment with the bicubic enlargement.
            tile: a tile's side in pixels of the result; "auto" chooses by the memory there is; None never tiles.
            overlap: pixels that neighbouring tiles share; a quarter of a tile by default.
            tile_batch: tiles that go through a network at once.
            generator: samples the encoder's posterior; without one its mode is taken, and nothing is random.
            output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), the latter two float32 in [0, 1].
            return_dict: return an `ImagePipelineOutput`, or a tuple.

        Raises:
            UserError: for a picture, size or tile that cannot be.
        """
        if output_type not in batches.OUTPUTS:
            raise UserError(f"output_type {output_type!r}: must be one of {', '.join(batches.OUTPUTS)}")
        height, width = size or (None, None)
        target = TargetSize(self.config.scale if scale is None and size is None else scale, width, height)
        results = []
        for pictures in batches.tensors(image):
            strips = self.strips(
                pictures,
                target.of(pictures.shape[3], pictures.shape[2]),
                color=color,
                tile=tile,
                overlap=overlap,
                tile_batch=tile_batch,
                generator=generator,
            )
            results.append(torch.cat(list(strips), dim=2))
        images = batches.OUTPUTS[output_type](results)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def strips(
        self,
        image: Tensor,
        size: tuple[int, int],
        *,
        color: Color = "wavelet",
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        tile_batch: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        step: Callable[[int, int], Any] | None = None,
    ) -> Iterator[Tensor]:
        """Enlarge pictures of one size, and hand out the result from the top in strips, so that it need not fit.

        Args:
            image: (B, 3, h, w) in [0, 1].
            size: (H, W) of the result.
            step: called with (tiles done, tiles in all), counting each network's, instead of a progress bar.
            color, tile, overlap, tile_batch, generator: as in a call.

        Yields:
            (B, 3, n, W) in [0, 1], float32, on the CPU.
        """
        if color not in ALIGNMENTS:
            raise UserError(f"color {color!r}: must be one of {', '.join(ALIGNMENTS)}")
        source = Source(image.detach().to("cpu", torch.float32), size)
        with self._restored(source, tile, overlap, tile_batch, generator, step) as store:
            yield from aligned_strips(store, source, color)

    def check_tiles(self, tile: int | Literal["auto"] | None, overlap: int | None, tile_batch: int) -> None:
        """Whether pictures can be tiled so, whatever their sizes; arguments as in a call.

        Raises:
            UserError: for a tile or an overlap that cannot be.
        """
        self._plan(self._networks(), tile, overlap, tile_batch)

    @contextmanager
    def _restored(
        self,
        source: Source,
        tile: int | Literal["auto"] | None,
        overlap: int | None,
        tile_batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
        step: Callable[[int, int], Any] | None,
    ) -> Iterator[RowStore]:
        """The restored picture; on running out of memory, again with smaller tiles."""
        networks = self._networks()
        plan: TilePlan | None = self._plan(networks, tile, overlap, tile_batch)
        noise = self._noise(networks, source, generator)
        store = None
        while store is None and plan is not None:
            total = passes(networks, source.size, plan)
            try:
                with self._progress(total, step) as advance:
                    store = restore(networks, source, plan, noise=noise, step=advance)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                plan = self._shrink(plan, networks)
        if store is None:
            raise UserError("out of memory even with the smallest tiles; free some, or choose a smaller size")
        with store:
            yield store

    def _plan(
        self, networks: Networks, tile: int | Literal["auto"] | None, overlap: int | None, batch: int
    ) -> TilePlan:
        config = self.transformer.config
        largest = config.pos_embed_max_size * config.patch_size
        try:
            return plan_tiles(
                networks, tile=tile, overlap=overlap, batch=batch, limit=config.sample_size, largest=largest
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def _shrink(self, plan: TilePlan, networks: Networks) -> TilePlan | None:
        following = smaller(plan, networks.patch)
        if networks.device.type == "cuda":
            torch.cuda.empty_cache()
        if following is not None:
            logger.warning(
                "out of memory with tiles of %d pixels, %d at once; trying %d pixels, %d at once",
                *(part for p in (plan, following) for part in (p.for_codec.tile * networks.codec.factor, p.batch)),
            )
        return following

    def _networks(self) -> Networks:
        dtype = self.transformer.dtype
        return Networks(
            codec=LatentCodec(self.vae, bool(self.config.use_shift)),
            velocity=lambda z: self.transformer(z.to(dtype)),
            patch=self.transformer.config.patch_size,
            device=self._execution_device,
        )

    def _noise(
        self, networks: Networks, source: Source, generator: torch.Generator | list[torch.Generator] | None
    ) -> Tensor | None:
        if generator is None:
            return None
        shape = (source.image.shape[0], self.vae.config.latent_channels, *networks.padded(source.size))
        return randn_tensor(shape, generator=generator, device=torch.device("cpu"), dtype=torch.float32)

    @contextmanager
    def _progress(self, total: int, step: Callable[[int, int], Any] | None) -> Iterator[Callable[[int], Any]]:
        """What to call with each number of finished tiles."""
        if step is None:
            with self.progress_bar(total=total) as bar:
                yield bar.update
            return
        done = 0

        def advance(tiles: int) -> None:
            nonlocal done
            done += tiles
            step(done, total)

        yield advance
