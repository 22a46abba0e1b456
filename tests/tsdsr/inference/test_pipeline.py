import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tsdsr.conftest import Model
from tsdsr.errors import UserError
from tsdsr.files import write_json
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.color import Moments, match, noise_variance, wavelet
from tsdsr.inference.opening import find_model
from tsdsr.inference.tiles.resample import bicubic
from tsdsr.models.student import upsample


@pytest.fixture(scope="module")
def small(photograph: np.ndarray) -> torch.Tensor:
    """(2, 3, 24, 32) in [0, 1]: two pieces of a photograph."""
    pieces = [photograph[40:136:4, 160:288:4], photograph[200:296:4, 300:428:4]]
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).float() / 255


def test_equals_the_plain_student(loaded: TSDSRPipeline, model: Model, small: torch.Tensor) -> None:
    with torch.no_grad():
        expected = model.student.decode(model.student(upsample(2 * small - 1, 4), model.prompt))
    result = loaded(small, scale=4, color="none", tile=None, output_type="pt").images
    torch.testing.assert_close(result, (expected.clamp(-1, 1) + 1) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("color", "align"),
    [
        ("adain", lambda x, y, small: match(x, Moments.of(x), Moments.of(y))),
        ("wavelet", lambda x, y, small: wavelet(x, y, noise_variance(small))),
    ],
)
def test_colours_are_aligned_with_the_bicubic_picture(loaded, small, color, align, monkeypatch) -> None:
    monkeypatch.setattr("tsdsr.inference.tiles.engine.STRIP_PIXELS", 17 * 2 * 128)  # the strips must not show
    array = small.numpy()
    plain = restored(loaded, array)
    result = loaded(small, color=color, tile=None, output_type="pt").images.numpy()
    reference = bicubic(array, (96, 128)).clip(0, 1)
    np.testing.assert_allclose(result, align(plain, reference, array).clip(0, 1), atol=1e-5)


def restored(pipe: TSDSRPipeline, small: np.ndarray) -> np.ndarray:
    """The student's picture before alignment and clamping."""
    from tsdsr.inference.tiles.engine import Enlargement, restore
    from tsdsr.inference.tiles.plan import TilePlan

    with restore(pipe.upscaler().networks, Enlargement(small, (96, 128)), TilePlan(96, 0)) as store:
        return store.read(0, 96)


def test_a_batch_equals_its_pictures_one_by_one(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    both = loaded(small, output_type="pt").images
    for index in range(2):
        one = loaded(small[index], output_type="pt").images
        torch.testing.assert_close(both[index : index + 1], one, atol=2e-5, rtol=0)


def test_every_kind_of_input_and_output_agrees(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    array = (small * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = loaded(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255, output_type="np").images
    assert expected.shape == (2, 96, 128, 3)
    images = [Image.fromarray(item) for item in array]
    for given in (array, array.astype(np.float32) / 255, images):
        np.testing.assert_allclose(loaded(given, output_type="np").images, expected, atol=1e-5)
    pil = loaded(images, return_dict=False)[0]
    assert all(isinstance(item, Image.Image) for item in pil)
    np.testing.assert_allclose(np.asarray(pil[1]) / 255, expected[1], atol=0.5 / 255 + 1e-5)


def test_sixteen_bits_of_grey_are_not_cut_to_eight(loaded: TSDSRPipeline) -> None:
    grey = np.linspace(0, 65535, 24 * 20).reshape(20, 24).astype(np.uint16)
    expected = loaded(np.repeat(grey[..., None] / np.float32(65535), 3, axis=2), output_type="pt").images
    assert torch.equal(loaded(Image.fromarray(grey), output_type="pt").images, expected)


def test_pictures_of_several_sizes_go_together_as_pil(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    array = (small * 255).byte().permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(array[0]), Image.fromarray(array[1, :17, :20])]
    assert [item.size for item in loaded(images, scale=1.5).images] == [(48, 36), (30, 26)]
    with pytest.raises(UserError, match="several sizes"):
        loaded(images, output_type="np")


@pytest.mark.parametrize("size", [(24, 32), (37, 50), (192, 256)])
def test_any_size(loaded: TSDSRPipeline, small: torch.Tensor, size: tuple[int, int]) -> None:
    result = loaded(small[:1], size=size, output_type="pt").images
    assert result.shape == (1, 3, *size)
    assert np.abs(result.numpy() - bicubic(small[:1].numpy(), size)).mean() < 0.12


@pytest.mark.parametrize("size", [(1, 37), (7, 9), (15, 40)])
def test_small_sides_are_padded_and_the_result_is_cropped(
    loaded: TSDSRPipeline, photograph: np.ndarray, size: tuple[int, int]
) -> None:
    height, width = size
    small = photograph[100 : 100 + height, 200 : 200 + width]
    result = loaded(small, scale=2, output_type="np").images
    assert result.shape == (1, 2 * height, 2 * width, 3)
    assert np.abs(result[0, ::2, ::2] - small / 255).mean() < 0.1
    times = [-(-16 // side) for side in size]
    continued = np.pad(small, [(0, height * (times[0] - 1)), (0, width * (times[1] - 1)), (0, 0)], mode="edge")
    whole = loaded(continued, scale=2, output_type="np").images
    np.testing.assert_allclose(result, whole[:, : 2 * height, : 2 * width], atol=1e-6)


def test_tiles_at_once_or_one_by_one(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    one = loaded(small, tile=64, output_type="pt").images
    many = loaded(small, tile=64, tile_batch=5, output_type="pt").images
    torch.testing.assert_close(one, many, atol=2e-5, rtol=0)


def test_a_generator_samples_the_posterior(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    def run(seed: int | None, **options: object) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return loaded(small, generator=generator, output_type="pt", **options).images

    assert torch.equal(run(1), run(1))
    for other in (run(2), run(None)):
        assert (run(1) - other).abs().max() > 1e-3
    # the noise belongs to the place in the picture, not to the tile: where tiles overlap they saw the same noise
    assert (run(1, tile=64) - run(1, tile=None)).abs().mean() < (run(1) - run(2)).abs().mean()


def test_saved_and_loaded_it_is_the_same(loaded: TSDSRPipeline, small: torch.Tensor, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    again = TSDSRPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config.scale == 4
    expected = loaded(small, output_type="pt").images
    torch.testing.assert_close(again(small, output_type="pt").images, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtype(model: Model, small: torch.Tensor, name: str) -> None:
    pipe = TSDSRPipeline.from_pretrained(model.teacher_dir, student=model.student_dir, **{name: torch.float64})
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.float64
    wide = pipe(small, output_type="pt").images
    assert wide.dtype == torch.float32
    narrow = pipe.to(torch.float32)(small, output_type="pt").images
    torch.testing.assert_close(narrow, wide, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_the_command_opens_an_export_in_the_dtype_that_was_asked_for(loaded: TSDSRPipeline, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    assert find_model(str(tmp_path), dtype="bfloat16").pipeline().dtype == torch.bfloat16


def test_no_text_encoder_is_needed_or_loaded(loaded: TSDSRPipeline, model: Model) -> None:
    assert not list(model.teacher_dir.glob("text_encoder*"))
    assert set(loaded.components) == {"vae", "transformer"}


def test_offload_hooks_find_every_network(loaded: TSDSRPipeline, small: torch.Tensor) -> None:
    """What `enable_model_cpu_offload` does, with the CPU as the place to run: hooks in the declared order."""
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    order = TSDSRPipeline.model_cpu_offload_seq.split("->")
    assert set(order) == {name for name, part in loaded.components.items() if isinstance(part, torch.nn.Module)}
    expected = loaded(small, output_type="pt").images
    hook = None
    for name in order:
        _, hook = cpu_offload_with_hook(getattr(loaded, name), torch.device("cpu"), prev_module_hook=hook)
    try:
        torch.testing.assert_close(loaded(small, output_type="pt").images, expected)
    finally:
        for name in order:
            remove_hook_from_module(getattr(loaded, name), recurse=True)


def test_progress_bar(loaded: TSDSRPipeline, small: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    loaded.set_progress_bar_config(disable=False)
    try:
        loaded(small, tile=64)
    finally:
        loaded.set_progress_bar_config(disable=True)
    assert "18/18" in capsys.readouterr().err  # 2 x 3 tiles through 3 networks


def test_out_of_memory_means_smaller_tiles(pipe, small, caplog, monkeypatch) -> None:
    expected = pipe(small, tile=64, overlap=16, output_type="pt").images
    decode = pipe.vae.decode

    def greedy(latents: torch.Tensor, **options: object) -> object:
        if latents.shape[0] * latents.shape[-1] * latents.shape[-2] > 2 * 8 * 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, **options)

    monkeypatch.setattr(pipe.vae, "decode", greedy)
    with caplog.at_level(logging.WARNING):
        result = pipe(small, tile=128, overlap=32, tile_batch=2, output_type="pt").images
    torch.testing.assert_close(result, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with tiles of 128 pixels, 2 at once; trying 128 pixels, 1 at once",
        "out of memory with tiles of 128 pixels, 1 at once; trying 64 pixels, 1 at once",
    ]


def test_out_of_memory_at_the_end_is_one_message(pipe, small, monkeypatch) -> None:
    def full(*args: object, **options: object) -> object:
        raise MemoryError

    monkeypatch.setattr(pipe.vae, "decode", full)
    with pytest.raises(UserError, match="smallest tiles"):
        pipe(small)


def test_other_errors_of_a_network_are_not_swallowed(pipe, small, monkeypatch) -> None:
    def broken(*args: object, **options: object) -> object:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(pipe.vae, "decode", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        pipe(small)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (torch.zeros(1, 4, 20, 20), {}, "shape"),
        (torch.zeros(3, 20, 20, dtype=torch.uint8), {}, "floating"),
        (2 * torch.ones(3, 20, 20), {}, r"\[0, 1\]"),
        (torch.full((3, 20, 20), torch.nan), {}, r"\[0, 1\]"),
        (np.zeros((20, 20)), {}, "shape"),
        (np.zeros((20, 20, 3), np.uint16), {}, "uint8"),
        ([], {}, "expected"),
        ("photo.jpg", {}, "expected"),
        (torch.zeros(3, 20, 20), {"color": "sepia"}, "wavelet, adain, none"),
        (torch.zeros(3, 20, 20), {"output_type": "jpeg"}, "pil, np, pt"),
        (torch.zeros(3, 20, 20), {"scale": 9}, "factor"),
        (torch.zeros(3, 20, 20), {"scale": 0}, "positive number"),
        (torch.zeros(3, 20, 20), {"size": (10, 10)}, "factor"),
        (torch.zeros(3, 20, 20), {"size": (200, 20)}, "factor of 10"),
        (torch.zeros(3, 20, 20), {"size": (40, 40), "scale": 2}, "give the size in one way"),
        (Image.new("F", (20, 20)), {}, "mode F"),
        (np.zeros((0, 20, 20, 3), np.uint8), {}, "must not be empty"),
        (torch.zeros(3, 20, 20), {"tile": 8}, "tile must be"),
        (torch.zeros(3, 20, 20), {"tile_batch": 0}, "1 or more"),
        (torch.zeros(3, 20, 20), {"tile": 64, "overlap": 40}, "overlap must be"),
    ],
)
def test_bad_input_is_one_clear_message(loaded: TSDSRPipeline, given: object, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loaded(given, **options)


def test_a_saved_pipeline_that_is_not_whole_is_one_clear_message(loaded: TSDSRPipeline, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path)
    weights = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["decoder.conv_out.weight"]
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"vae lacks 1 of its weights, decoder.conv_out.weight"):
        TSDSRPipeline.from_pretrained(tmp_path)
    (tmp_path / "transformer/config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as an upscaler"):
        TSDSRPipeline.from_pretrained(tmp_path)


def test_a_teacher_alone_is_no_upscaler(loaded: TSDSRPipeline, model: Model, tmp_path: Path) -> None:
    shutil.copytree(model.teacher_dir, tmp_path, dirs_exist_ok=True)
    classes = {"vae": ["diffusers", "AutoencoderKL"], "transformer": ["diffusers", "SD3Transformer2DModel"]}
    write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusion3Pipeline", **classes})
    with pytest.raises(UserError, match="is not an upscaler; for a teacher, name a student too"):
        TSDSRPipeline.from_pretrained(tmp_path)


def test_bad_directories_are_one_clear_message(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a student"):
        TSDSRPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a student directory"):
        TSDSRPipeline.from_pretrained(model.teacher_dir, student=tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        TSDSRPipeline.from_pretrained(tmp_path / "nothing", student=model.student_dir)
