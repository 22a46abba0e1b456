"""The whole one-step upscaler as one ONNX graph: bicubic picture in, restored picture out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tsdsr.errors import UserError
from tsdsr.models.codec import LatentCodec

if TYPE_CHECKING:
    from tsdsr.inference.pipeline import TSDSRPipeline

logger = logging.getLogger(__name__)
for _name in ("onnxscript", "onnx_ir"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # they name every node that they simplify
TOLERANCE = 1e-3  # largest difference from PyTorch, of a range of 2
_LARGEST_FILE = 1_500_000_000  # bytes of weights; a single ONNX file ends at 2 GiB
_SAMPLE_TOKENS = (6, 8)  # rows and columns of the picture that a dynamic graph is traced with
_CHECK_TOKENS = (9, 5)


class OneStep(nn.Module):
    """Encoder, transformer and decoder in one module.

    Args:
        pipe: whose networks it shares.
    """

    def __init__(self, pipe: TSDSRPipeline) -> None:
        super().__init__()
        self.vae, self.transformer = pipe.vae, pipe.transformer
        self._codec = LatentCodec(pipe.vae, bool(pipe.config.use_shift))

    def forward(self, pixels: Tensor) -> Tensor:
        """The bicubic enlargement (B, 3, H, W) in [-1, 1] -> the restored picture, not clamped."""
        z = self._codec.encode(pixels)
        return self._codec.decode(z - self.transformer(z))


def export_onnx(pipe: TSDSRPipeline, path: Path, size: tuple[int, int] | None) -> float:
    """Write the graph, and run it in onnxruntime against PyTorch.

    Args:
        pipe: in float32 on the CPU.
        path: of the `.onnx` file; weights that no single file can hold go to one beside it.
        size: (H, W) that the graph is for; None = any multiple of the model's grid, one picture at a time.

    Returns:
        the largest difference from PyTorch on a picture of random numbers, of a range of 2.

    Raises:
        UserError: for a size off the grid, a package that is missing, or a graph that computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'tsdsr[export]'") from None
    config = pipe.transformer.config
    grid = 2 ** (len(pipe.vae.config.block_out_channels) - 1) * config.patch_size
    if size is not None and (size[0] % grid or size[1] % grid):
        raise UserError(f"a fixed size must be a multiple of {grid} pixels, found {size[1]}x{size[0]}")
    model = OneStep(pipe).eval()
    shape = size or (_SAMPLE_TOKENS[0] * grid, _SAMPLE_TOKENS[1] * grid)
    dynamic = None
    if size is None:
        most = config.pos_embed_max_size
        rows, columns = (torch.export.Dim(name, min=2, max=most) for name in ("rows", "columns"))
        dynamic = {"pixels": {2: grid * rows, 3: grid * columns}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own internals
        torch.onnx.export(
            model,
            (_picture(*shape),),
            path,
            input_names=["pixels"],
            output_names=["restored"],
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
            external_data=_bytes(model) > _LARGEST_FILE,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = size or (_CHECK_TOKENS[0] * grid, _CHECK_TOKENS[1] * grid)
    pixels = _picture(*shape)
    with torch.no_grad():
        expected = model(pixels)
    found = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(f"the exported graph differs from PyTorch by {difference:.2g}; allowed is {TOLERANCE:g}")
    return difference


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _picture(height: int, width: int) -> Tensor:
    return 2 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) - 1
