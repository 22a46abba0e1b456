"""The one-step student: VAE encoder and transformer with LoRA, frozen decoder.

    x_L, bicubic to the target size -> encoder + LoRA -> z_L -> z_hat = z_L - v_theta(z_L, 1000, prompt) -> decoder

Legend: B batch, H W pixels, h w latent, C latent channels, L prompt tokens, D their width, P pooled width.

Source: TSD-SR, arXiv 2411.18263, Sec. 3.1, and its released code (adapters, the default prompt, timestep 1000).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tsdsr import files
from tsdsr.device import send
from tsdsr.errors import UserError
from tsdsr.grain import grain
from tsdsr.models import adapters
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt
from tsdsr.models.velocity import predict_velocity

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

    from tsdsr.models.codec import Autoencoder

STUDENT_TIMESTEP = 1000.0  # sigma = 1: the student always takes its step from the end of the trajectory
FORMAT = 1
WEIGHTS = ("transformer.safetensors", "vae.safetensors")
PROMPT_FILE = "prompt.safetensors"
DECODER_FILE = "decoder.safetensors"  # only of a student that has trained its own


def upsample(lq: Tensor, scale: int) -> Tensor:
    """x_L: bicubic (a = -0.75, no antialiasing, half-pixel centres), clamped; [B,3,h,w] in [-1, 1] -> [B,3,s h,s w]."""
    return functional.interpolate(lq, scale_factor=scale, mode="bicubic", align_corners=False).clamp(-1, 1)


class Student:
    """The student's forward over a shared, frozen VAE and transformer that carry its adapters.

    Its own weights are the two adapters named `student`; the transformer may have others.

    Args:
        decoder_noise: standard deviation of the `grain` that its own decoder was trained with, in scaled latents.
    """

    def __init__(
        self,
        vae: Autoencoder,
        transformer: SD3Transformer2DModel,
        *,
        use_shift: bool,
        vae_slice: int | None = None,
        decoder_noise: float = 0.0,
    ) -> None:
        self.vae = vae
        self.transformer = transformer
        self.codec = LatentCodec(vae, use_shift, vae_slice)
        self.decoder_noise = decoder_noise

    def add_adapters(
        self, *, rank: int, alpha: float, seed: int, vae_rank: int | None = None, trainable: bool = True
    ) -> None:
        """Freeze the base and add the student's LoRA to the VAE's encoder and the transformer.

        Args:
            rank: of the transformer's adapter, and of the encoder's if `vae_rank` is None.
            alpha: both adapters are scaled by alpha / rank.
        """
        vae_rank = vae_rank or rank
        both: dict[str, Any] = {"seed": seed, "trainable": trainable}
        vae: dict[str, Any] = {
            "rank": vae_rank,
            "alpha": alpha * vae_rank / rank,
            "targets": adapters.VAE_ENCODER_TARGETS,
        }
        self.vae.requires_grad_(False)
        adapters.add_adapter(self.vae, adapters.STUDENT, **vae, **both)
        adapters.add_adapter(
            self.transformer, adapters.STUDENT, rank=rank, alpha=alpha, targets=adapters.STUDENT_TARGETS, **both
        )

    def encode(self, x_lq: Tensor) -> Tensor:
        """Upsampled LQ image [B,3,H,W] in [-1, 1] -> z_L [B,C,h,w], through the encoder's LoRA."""
        with adapters.active(self.vae, adapters.STUDENT):
            return self.codec.encode(x_lq)

    def predict(self, z_lq: Tensor, prompt: Prompt) -> Tensor:
        """z_hat = z_L - v_theta(z_L, 1000, c), [B,C,h,w] in float32 or wider."""
        timestep = torch.full((z_lq.shape[0],), STUDENT_TIMESTEP, device=z_lq.device)
        velocity = predict_velocity(self.transformer, z_lq, timestep, prompt.embeds, prompt.pooled)
        return z_lq.to(velocity.dtype) - velocity

    def __call__(self, x_lq: Tensor, prompt: Prompt) -> Tensor:
        """Upsampled LQ image [B,3,H,W] in [-1, 1] -> z_hat [B,C,h,w]."""
        z_lq = self.encode(x_lq)
        with adapters.active(self.transformer, adapters.STUDENT):
            return self.predict(z_lq, prompt)

    def decode(self, z_hat: Tensor) -> Tensor:
        """z_hat -> x_hat [B,3,H,W], nominally in [-1, 1]; the decoder has no adapter."""
        if self.decoder_noise:
            noise = send(torch.from_numpy(grain(*z_hat.shape[1:])), z_hat.device)
            z_hat = z_hat + self.decoder_noise * noise
        return self.codec.decode(z_hat)

    def save(
        self, directory: str | Path, config: Mapping[str, Any], prompt: Prompt, *, own_decoder: bool = False
    ) -> None:
        """Write a student directory, completely or not at all.

        Args:
            directory: replaced if it exists.
            config: the content of `student.json`; includes `lora` (rank, alpha; vae_rank if it differs), `use_shift`
                and `scale`, and `decoder_noise` if there is any.
            prompt: the default prompt's embeddings, so that inference needs no text encoder.
            own_decoder: write the VAE's decoder too; otherwise it is the teacher's.
        """
        with files.atomic_directory(directory) as aside:
            adapters.save(self.transformer, adapters.STUDENT, aside / "transformer.safetensors")
            adapters.save(self.vae, adapters.STUDENT, aside / "vae.safetensors")
            tensors = {"prompt_embeds": prompt.embeds, "pooled_embeds": prompt.pooled}
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside / PROMPT_FILE)
            if own_decoder:
                decoder = self.vae.decoder.state_dict()
                save_file(
                    {key: value.detach().cpu().contiguous() for key, value in decoder.items()}, aside / DECODER_FILE
                )
            files.write_json(aside / "student.json", {"format": FORMAT, **config})


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read and check a student directory's `student.json`.

    TSD-SR's released weights have none: their ranks are read from the weights, and the other values are those of their
    training (alpha = rank, no shift, x4).

    Raises:
        UserError: the directory is not a student's, or was written by a newer version.
    """
    directory = Path(directory)
    missing = [name for name in WEIGHTS if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory}: not a student directory: {', '.join(missing)} missing; `make repro` writes one")
    if not (directory / "student.json").is_file():
        ranks = [adapters.rank_of(adapters.read_weights(directory / name), str(directory / name)) for name in WEIGHTS]
        lora = {"rank": ranks[0], "alpha": ranks[0], "vae_rank": ranks[1]}
        return {"format": FORMAT, "scale": 4, "use_shift": False, "lora": lora, "decoder_noise": 0.0}
    try:
        config = files.read_json(directory / "student.json")
    except ValueError as error:
        raise UserError(f"{directory / 'student.json'}: not valid JSON ({error})") from None
    if config.get("format") != FORMAT:
        raise UserError(f"{directory / 'student.json'}: format {config.get('format')!r}; this version reads {FORMAT}")
    lacking = [key for key in ("lora", "use_shift", "scale") if key not in config]
    if lacking:
        raise UserError(f"{directory / 'student.json'}: lacks {', '.join(lacking)}")
    noise = config.setdefault("decoder_noise", 0.0)
    if not isinstance(noise, int | float) or not 0 <= noise < math.inf:
        raise UserError(f"{directory / 'student.json'}: decoder_noise: {noise!r} is no standard deviation")
    return config


def read_prompt(directory: str | Path) -> Prompt:
    """The default prompt's embeddings beside a student's weights.

    Raises:
        UserError: they are missing or damaged.
    """
    path = Path(directory) / PROMPT_FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; it holds the embeddings of the prompt that the student was trained with, "
            "`prompt_embeds` (tokens x width) and `pooled_embeds`. Those of released weights are published apart: save "
            "them there under these names"
        )
    tensors = adapters.read_weights(path)
    if lacking := [name for name in ("prompt_embeds", "pooled_embeds") if name not in tensors]:
        raise UserError(f"{path}: lacks {' and '.join(lacking)}; found {', '.join(tensors) or 'nothing'}")
    return Prompt(embeds=tensors["prompt_embeds"], pooled=tensors["pooled_embeds"])


def load_weights(student: Student, directory: Path) -> None:
    """Load a directory's weights into a student with adapters, and its decoder if the directory has one.

    Raises:
        UserError: the directory is not a student's, or weights have another shape.
    """
    adapters.load(student.transformer, adapters.STUDENT, directory / "transformer.safetensors")
    adapters.load(student.vae, adapters.STUDENT, directory / "vae.safetensors")
    path = directory / DECODER_FILE
    if path.is_file():
        try:
            student.vae.decoder.load_state_dict(adapters.read_weights(path))
        except RuntimeError as error:
            raise UserError(f"{path}: not the decoder of this student's teacher: {error}") from None


def load_student(
    vae: Autoencoder, transformer: SD3Transformer2DModel, directory: str | Path
) -> tuple[Student, dict[str, Any]]:
    """Attach a student directory's adapters, frozen, to a teacher's VAE and transformer.

    Returns:
        the student and its `student.json`.

    Raises:
        UserError: the directory is not a student's, or weights do not fit.
    """
    directory = Path(directory)
    config = read_config(directory)
    student = Student(vae, transformer, use_shift=bool(config["use_shift"]), decoder_noise=config["decoder_noise"])
    transformer.requires_grad_(False)
    lora = config["lora"]
    student.add_adapters(rank=lora["rank"], alpha=lora["alpha"], vae_rank=lora.get("vae_rank"), seed=0, trainable=False)
    load_weights(student, directory)
    return student, config
