"""A student's three networks as ONNX graphs, which `tsdsr upscale` and other programs run without PyTorch.

    z, deviation = encoder(pixels)      the bicubic enlargement (B, 3, H, W) in [-1, 1] -> z_L, and the posterior's
                                        deviation, both (B, C, h, w) in the transformer's space
    velocity = transformer(latents)     z_hat = z_L - velocity
    pixels = decoder(latents)           about [-1, 1], not clamped; `decoder_noise` of the record times `tsdsr.grain`
                                        is added to its latents before

B is any number; H and W are any multiples of the model's grid, up to the size of the transformer's position table.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.inference.networks.in_onnx import GRAPHS, Record
from tsdsr.models.codec import LatentCodec

if TYPE_CHECKING:
    from tsdsr.inference.pipeline import TSDSRPipeline

logger = logging.getLogger(__name__)
for _name in ("onnxscript", "onnx_ir"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # they log every node that they simplify
TOLERANCE = 1e-3  # largest difference from PyTorch, relative to the largest value
_LARGEST_GRAPH = 1_900_000_000  # bytes; a single ONNX file ends at 2 GiB
_HALVED = 1024  # values of the smallest weight that is stored as float16
_TRACED_TOKENS, _CHECKED_TOKENS = (6, 8), (9, 5)  # rows and columns


class Encoder(nn.Module):
    """Pixels -> the posterior's mode and deviation, scaled (and shifted) for the transformer."""

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.vae, self._codec = codec.vae, codec

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        scale = self.vae.config.scaling_factor
        return (posterior.mean - self._codec.shift) * scale, posterior.std * scale


class Decoder(nn.Module):
    """Latents -> pixels."""

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.vae, self._codec = codec.vae, codec

    def forward(self, latents: Tensor) -> Tensor:
        return self._codec.decode(latents)


@dataclass(frozen=True)
class _Graph:
    """One network, how its values are named, and the side of a token of its input."""

    module: nn.Module
    inputs: str
    outputs: tuple[str, ...]
    channels: int
    token: int

    def example(self, tokens: tuple[int, int]) -> Tensor:
        """Two of them: torch.export takes a batch of one for a constant."""
        shape = (2, self.channels, *(self.token * count for count in tokens))
        return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def export_graphs(pipe: TSDSRPipeline, directory: Path) -> float:
    """Write the graphs and their record, and run each in ONNX Runtime against PyTorch.

    Large weights are stored as float16 (`in_onnx` says how they run), so the pipeline's are rounded to it first.

    Args:
        pipe: in float32 on the CPU; its weights are changed.
        directory: exists.

    Returns:
        the largest difference from PyTorch, relative to the largest value.

    Raises:
        UserError: packages are missing, the model is too large for one file, or a graph's result differs.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'tsdsr[export]'") from None
    _round(pipe.vae)
    _round(pipe.transformer)
    difference = 0.0
    for name, graph in zip(GRAPHS, _graphs(pipe), strict=True):
        path = directory / f"{name}.onnx"
        _write(graph, path, pipe.transformer.config.pos_embed_max_size)
        _halve(path)
        difference = max(difference, _compare(graph, path))
    if not difference <= TOLERANCE:
        raise UserError(f"the exported graphs differ from PyTorch by {difference:.2g}; allowed is {TOLERANCE:g}")
    sums = {path.name: files.sha256_file(path) for path in sorted(directory.glob("*.onnx"))}
    networks = pipe.upscaler().networks
    Record(float(pipe.config.scale), networks.geometry, sums, networks.decoder_noise).write(directory)
    return difference


def _round(module: nn.Module) -> None:
    """Round large weights to float16.

    Raises:
        UserError: a value is out of its range.
    """
    for name, value in module.state_dict().items():
        if value.numel() >= _HALVED:
            value.copy_(value.half().float())
            if not value.isfinite().all():
                raise UserError(f"{name} has values out of the range of float16")


def _graphs(pipe: TSDSRPipeline) -> Iterator[_Graph]:
    codec = LatentCodec(pipe.vae, bool(pipe.config.use_shift))
    channels, patch = pipe.vae.config.latent_channels, pipe.transformer.config.patch_size
    yield _Graph(Encoder(codec), "pixels", ("latents", "deviation"), 3, codec.factor * patch)
    yield _Graph(pipe.transformer, "latents", ("velocity",), channels, patch)
    yield _Graph(Decoder(codec), "latents", ("pixels",), channels, patch)


def _write(graph: _Graph, path: Path, most_tokens: int) -> None:
    size = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    if size > _LARGEST_GRAPH:
        raise UserError(f"{path.stem} has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2; use another form")
    rows, columns = (torch.export.Dim(name, min=1, max=most_tokens) for name in ("rows", "columns"))
    dynamic = ({0: torch.export.Dim("batch", min=1, max=1024), 2: graph.token * rows, 3: graph.token * columns},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own internals
        torch.onnx.export(
            graph.module.eval(),
            (graph.example(_TRACED_TOKENS),),
            path,
            input_names=[graph.inputs],
            output_names=list(graph.outputs),
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
            external_data=False,
        )


def _halve(path: Path) -> None:
    """Store large float32 weights as float16, each followed by a Cast."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph: Any = model.graph
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == "float32" and values.size >= _HALVED:
            name, stored = weight.name, f"{weight.name}.float16"
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        node.ClearField("metadata_props")  # source locations, as large as a small graph itself
        node.ClearField("doc_string")
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _compare(graph: _Graph, path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    example = graph.example(_CHECKED_TOKENS)[:1]
    with torch.no_grad():
        wanted = graph.module(example)
    found = session.run(None, {graph.inputs: example.numpy()})
    pairs = zip(found, (wanted,) if isinstance(wanted, Tensor) else wanted, strict=True)
    return max(float((torch.from_numpy(one) - two).abs().max() / two.abs().max().clamp_min(1e-6)) for one, two in pairs)
