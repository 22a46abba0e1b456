"""Upscaling: the plain path compared with ours and with our ONNX graphs, on the same weights; also memory and colours.

    python benchmarks/upscale.py [--quick] [--photographs DIR ...] [--model DIR_OR_NAME] [--threads N]
    python benchmarks/upscale.py --peer real-esrgan [--quick] [--model DIR_OR_NAME] [--threads N]

The plain path is the structure of TSD-SR's released test script: adapters unmerged, the prompt's and the timestep's
modules live, tiles one by one. Ours is what `TSDSRPipeline` runs. Both use the same tiles and must agree. Weights are
random: on a CPU the tiny preset's, on a GPU SD3-medium's shape at 512x512 (Table 3 of arXiv 2411.18263: one picture,
time of a forward after warm-up), also compiled, and tiles of a larger picture in batches. On a CPU the time is the
process's CPU time, paths taken in turn, medians.

With `--peer real-esrgan` the model (the shipped one by default) stands against Real-ESRGAN x4plus instead: 128 to 512
pixels a side on the same threads, taken in turn, medians of wall time; `equal` then says whether the model's graphs and
PyTorch give the same picture.

Start-up is the wall time of a whole `tsdsr upscale` of a 128 px picture, through the graphs and through PyTorch. Memory
is, on a CPU, the peak resident size of a process for results of 1, 4 and 16 megapixels. Colours: the mean CIEDE2000
between 20 photographs of each folder and their enlargement reduced again, with a trained student (`--model`); noise
that was taken away counts as a difference. Without the folders the bundled ones are used. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.measuring import timed  # noqa: E402
from pipeline.stages import restorers  # noqa: E402
from pipeline.tracking.provenance import hardware  # noqa: E402
from tsdsr.data.photographs import find_photographs  # noqa: E402
from tsdsr.errors import UserError  # noqa: E402
from tsdsr.export.graphs import export_graphs  # noqa: E402
from tsdsr.inference import TSDSRPipeline  # noqa: E402
from tsdsr.inference.networks.fold import streamline  # noqa: E402
from tsdsr.inference.networks.in_onnx import OnnxNetworks  # noqa: E402
from tsdsr.inference.networks.in_torch import TorchNetworks, geometry_of  # noqa: E402
from tsdsr.inference.networks.merge import merge_adapter  # noqa: E402
from tsdsr.inference.opening import TEACHER, Model, find_model  # noqa: E402
from tsdsr.inference.tiles.engine import Enlargement, Networks, restore  # noqa: E402
from tsdsr.inference.tiles.plan import TilePlan  # noqa: E402
from tsdsr.inference.upscaler import Tiling, Upscaler  # noqa: E402
from tsdsr.models import adapters, presets  # noqa: E402
from tsdsr.models.codec import LatentCodec  # noqa: E402
from tsdsr.models.prompt import Prompt  # noqa: E402
from tsdsr.models.student import Student  # noqa: E402

RANK = 64
TOLERANCE = {"cpu": 1e-4, "cuda": 0.05}  # of a range of 1; bfloat16 on a GPU
WARM_UP = {"cpu": 3, "cuda": 3}
MEGAPIXELS = (1, 4, 16)
SHARED = ROOT.parent / "shared/data"
PHOTOGRAPHS = ("bench_drealsr/lq", "train_hq", "real_lq")  # real captures, clean ones, and badly damaged ones


class PlainCodec(LatentCodec):
    """The encoder with its adapter live."""

    def encode(self, images: Tensor) -> Tensor:
        with adapters.active(self.vae, adapters.STUDENT):
            return super().encode(images)


@dataclass(frozen=True)
class Paths:
    """Both paths with the same weights."""

    plain: Networks
    ours: TSDSRPipeline


def build(preset_name: str, device: torch.device, dtype: torch.dtype) -> Paths:
    """Random weights and adapters of the preset's shape, as a plain student and as our pipeline."""
    preset = presets.get(preset_name)

    def student() -> tuple[Any, Any]:
        vae = presets.build_vae(preset, seed=0, device=device.type)
        transformer = presets.build_transformer(preset, seed=0, device=device.type)
        transformer.requires_grad_(False)
        Student(vae, transformer, use_shift=False).add_adapters(rank=RANK, alpha=RANK, seed=0, trainable=False)
        generator = torch.Generator().manual_seed(0)
        for network in (vae, transformer):
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.data = (0.01 * torch.randn(parameter.shape, generator=generator)).to(parameter.device)
            network.to(device, dtype).eval()
        return vae, transformer

    config, draw = preset.shape["transformer"], torch.Generator().manual_seed(1)
    prompt = Prompt(torch.randn(preset.prompt_tokens, config["joint_attention_dim"], generator=draw),
                    torch.randn(config["pooled_projection_dim"], generator=draw))  # fmt: skip
    prompt = Prompt(prompt.embeds.to(device, dtype), prompt.pooled.to(device, dtype))
    vae, transformer = student()
    rest = Student(vae, transformer, use_shift=False)

    def velocity(z: Tensor) -> Tensor:
        with adapters.active(rest.transformer, adapters.STUDENT):
            return z - rest.predict(z, prompt)

    plain_codec = PlainCodec(vae, False)
    vae, transformer = student()
    merge_adapter(vae, adapters.STUDENT)
    merge_adapter(transformer, adapters.STUDENT)
    pipe = TSDSRPipeline(vae, streamline(transformer, prompt)).to(device)
    pipe.set_progress_bar_config(disable=True)
    plain = TorchNetworks(plain_codec, velocity, geometry_of(plain_codec, pipe.transformer), device)
    return Paths(plain, pipe)


def run(networks: Networks, source: Enlargement, plan: TilePlan) -> np.ndarray:
    with restore(networks, source, plan) as store:
        return store.read(0, source.size[0])


def speed(
    preset: str,
    paths: Paths,
    device: torch.device,
    side: int,
    tile: int,
    batch: int,
    repeats: int,
    compiled: TSDSRPipeline | None = None,
) -> dict[str, Any]:
    """Seconds of the plain path, ours, ours compiled and (on a CPU) the exported graphs, measured in turn.

    Args:
        batch: tiles at a time in one of the ways. compiled: a pipeline whose networks are to be compiled.
    """
    source = Enlargement(np.random.default_rng(1).random((1, 3, side // 4, side // 4), np.float32), (side, side))
    ours = paths.ours.upscaler().networks
    one, many = TilePlan(tile, tile // 4), TilePlan(tile, tile // 4, batch)
    work: dict[str, Callable[[], np.ndarray]] = {
        "plain": lambda: run(paths.plain, source, one),
        "ours": lambda: run(ours, source, one),  # one by one, as by default: batches help GPUs alone
        "ours, tiles in batches": lambda: run(ours, source, many),
    }
    if compiled is not None:
        for part in (*compiled.transformer.blocks, compiled.vae.decoder):  # equal blocks are compiled once
            part.compile()
        networks = compiled.upscaler().networks
        try:
            run(networks, source, one)
            work["ours, compiled"] = lambda: run(networks, source, one)
        except Exception as error:  # for example without a C compiler; the other ways are still measured
            print(f"  not compiled: {error!r:.300}")
    with tempfile.TemporaryDirectory() as folder:
        if device.type == "cpu":
            whole = TilePlan(side // ours.geometry.factor, 0)
            export_graphs(build(preset, device, torch.float32).ours, Path(folder))
            graphs = OnnxNetworks(Path(folder), torch.get_num_threads())
            work["whole, ours"] = lambda: run(ours, source, whole)
            work["whole, graphs"] = lambda: run(graphs, source, whole)
        for _ in range(WARM_UP[device.type]):
            results = {name: call() for name, call in work.items()}
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(repeats):
            for name, call in work.items():
                times[name].append(timed(call, device)[0])
    medians = {name: median(values) for name, values in times.items()}
    tiled = [results[name] for name in work if name.startswith("ours")]
    difference = max(float(np.abs(results["plain"] - result).max()) for result in tiled)
    for name, value in medians.items():
        print(f"  {preset:<12}{name:<26}{1000 * value:10.1f} ms   {medians['plain'] / value:5.2f}x of plain")
    print(f"  {preset:<12}largest difference of ours from plain: {difference:.1e}")
    return {
        "baseline": medians["plain"],
        "ours": medians["ours"],
        "ratio": medians["plain"] / medians["ours"],
        "batched_tiles_ratio": medians["ours"] / medians["ours, tiles in batches"],
        "compiled_ratio": medians["plain"] / medians["ours, compiled"] if "ours, compiled" in medians else None,
        "graphs_ratio": medians["whole, ours"] / medians["whole, graphs"] if device.type == "cpu" else None,
        "equal": difference <= TOLERANCE[device.type],
    }


def against_peer(model: Model, threads: int, repeats: int) -> dict[str, Any]:
    """The model's graphs and Real-ESRGAN, measured in turn on one picture of 128 x 128 px."""
    picture = _photographs_of_the_project(1)[0].resize((128, 128), Image.Resampling.BOX)
    image = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255
    if model.graphs is None:
        raise UserError(f"{model.place}: holds no ONNX graphs")
    peer = restorers.real_esrgan(4)
    graphs = Upscaler(OnnxNetworks(model.graphs, threads), model.scale)
    work: dict[str, Callable[[], object]] = {
        "real-esrgan": lambda: peer(np.asarray(picture)),
        "ours": lambda: enlarged(graphs, image),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}  # (CPU, wall)
    for turn in range(repeats + 1):
        for name, call in work.items():
            seconds = timed(call, torch.device("cpu"))
            if turn:  # the first warms up
                times[name].append(seconds)
    cpu, medians = ({name: median(row[i] for row in rows) for name, rows in times.items()} for i in range(2))
    in_torch = enlarged(Model(model.place, dtype="float32", teacher=_teacher(model)).open(), image)
    difference = float(np.abs(in_torch - enlarged(graphs, image)).max())
    for name, value in medians.items():
        print(f"  {name:<12}{value:8.2f} s a picture of 128 px, {cpu[name]:8.2f} s of CPU time, {threads} threads")
    print(f"  largest difference of the graphs from PyTorch: {difference:.1e}")
    ratio = medians["real-esrgan"] / medians["ours"]
    return {
        "baseline": medians["real-esrgan"],
        "ours": medians["ours"],
        "ratio": ratio,
        "cpu_ratio": cpu["real-esrgan"] / cpu["ours"],
        "equal": difference <= 0.02,
    }


def enlarged(upscaler: Upscaler, image: np.ndarray) -> np.ndarray:
    size = (4 * image.shape[2], 4 * image.shape[3])
    return np.concatenate(list(upscaler.strips(image, size, tiling=Tiling())), axis=2)


def startup(model: Model, repeats: int) -> dict[str, float]:
    """Median seconds of a whole `tsdsr upscale`, including the start of Python."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.jpg")
        _photographs_of_the_project(1)[0].resize((128, 128), Image.Resampling.BOX).save(small)
        ways = {"graphs": [str(model.place)], "torch": [str(model.student), "--teacher", _teacher(model)]}
        for name, words in ways.items():
            program = [sys.executable, "-m", "tsdsr", "upscale", str(small), "-o", f"{folder}/out.png"]
            command = [*program, "--model", *words]
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times.append(time.perf_counter() - started)
            found[name] = median(times)
            print(f"  one picture of 128 px, whole process, {name:<8}{found[name]:6.2f} s")
    return found


def _teacher(model: Model) -> str:
    from tsdsr.inference.loading import teacher_of

    own = model.place / TEACHER
    return str(own if own.is_dir() else teacher_of(model.student))


def _photographs_of_the_project(count: int) -> list[Image.Image]:
    return [Image.open(item.path).convert("RGB") for item in find_photographs("bundled")[:count]]


def peak(megapixels: int) -> float:
    """Peak resident size of this process in MiB after one picture, whose strips are discarded."""
    side = int((megapixels * 1e6 / 16) ** 0.5)
    pipe = build("tiny", torch.device("cpu"), torch.float32).ours
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    for strip in pipe.upscaler().strips(image, (4 * side, 4 * side), tiling=Tiling(256)):
        del strip
    # not ru_maxrss, which begins at what the parent held when it started this process
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def memory(megapixels: tuple[int, ...]) -> dict[str, float]:
    result = {}
    for amount in megapixels:
        command = [sys.executable, __file__, "--peak", str(amount)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result[str(amount)] = float(found.strip().splitlines()[-1])
        print(f"  {amount:3d} megapixels out: peak {result[str(amount)]:7.0f} MiB")
    return result


def colors(folders: list[Path], model: str | None, count: int, side: int) -> dict[str, float]:
    """By folder: the mean CIEDE2000 between the centre of each photograph and its enlargement, reduced again."""
    try:
        pipe = find_model(model).pipeline()
    except UserError as error:
        print(f"  no student: {error}")
        return {}
    sets = {
        folder.parent.name + "/" + folder.name: _photographs(folder, count) for folder in folders if folder.is_dir()
    }
    sets = sets or {"bundled": [photograph.path for photograph in find_photographs("bundled")][:count]}
    means = {}
    for name, paths in sets.items():
        values = [_color_difference(pipe, path, side) for path in paths]
        means[name] = mean(values)
        print(
            f"  {name:<20} mean CIEDE2000 over {len(values)} photographs: {means[name]:.2f} (at most {max(values):.2f})"
        )
    return means


def _photographs(folder: Path, count: int) -> list[Path]:
    """This number of files, evenly spaced over the folder."""
    names = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".jpg"))
    return names[:: max(1, len(names) // count)][:count]


def _color_difference(pipe: TSDSRPipeline, path: Path, side: int) -> float:
    from skimage.color import deltaE_ciede2000, rgb2lab

    image = Image.open(path).convert("RGB")
    left, top = ((length - min(length, side)) // 2 for length in image.size)
    image = image.crop((left, top, left + min(side, image.width), top + min(side, image.height)))
    small = pipe(image, color="wavelet").images[0].resize(image.size, Image.Resampling.BOX)
    return float(np.mean(deltaE_ciede2000(*(rgb2lab(np.asarray(item) / 255) for item in (image, small)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller pictures, fewer of them")
    parser.add_argument("--peer", choices=["real-esrgan"], help="measure the model against this network instead")
    parser.add_argument("--photographs", type=Path, nargs="+", default=[SHARED / name for name in PHOTOGRAPHS])
    parser.add_argument("--model", help="the student whose colours, start-up or speed beside a peer are measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak))
        return
    summary: dict[str, Any] = {"name": "upscale", "unit": "s", "device": "cpu", "hardware": hardware()}
    if args.peer:
        model = find_model(args.model)
        print(f"Beside {args.peer}")
        summary |= against_peer(model, args.threads, 3 if args.quick else 7) | {"peer": args.peer}
        print("Start-up")
        summary["startup_s"] = startup(model, 3 if args.quick else 7)
        print(json.dumps(summary))
        return
    print("Speed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        preset, dtype = "sd3-medium", torch.bfloat16
        paths = build(preset, device, dtype)
        summary |= {"device": "cuda"} | speed(preset, paths, device, 512, 64, 1, 10, build(preset, device, dtype).ours)
        side, batch = (1024, 3) if args.quick else (2048, 5)  # of its 9 or 25 tiles
        tiled = speed(preset, paths, device, side, 64, batch, 3)
        summary["batched_tiles_ratio"] = tiled["batched_tiles_ratio"]
        summary["equal"] = summary["equal"] and tiled["equal"]
    else:
        paths = build("tiny", device, torch.float32)
        summary |= speed("tiny", paths, device, 256 if args.quick else 512, 32, 4, 15)
        print("Memory")
        summary["peak_mib"] = memory(MEGAPIXELS[:2] if args.quick else MEGAPIXELS)
    print("Colours")
    summary["ciede2000"] = colors(args.photographs, args.model, 4 if args.quick else 20, 64 if args.quick else 128)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
