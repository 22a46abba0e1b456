"""The noise in the decoder's input: the same in every way that a student runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tsdsr.conftest import NOISE, Model
from tsdsr import files
from tsdsr.compression.cut import cut
from tsdsr.compression.export import write_compressed, write_source
from tsdsr.errors import UserError
from tsdsr.grain import grain
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.networks.in_onnx import RECORD, Record
from tsdsr.inference.tiles.plan import Geometry
from tsdsr.inference.upscaler import Tiling, Upscaler
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.student import load_student, upsample
from tsdsr.models.teacher import load_teacher


@pytest.fixture(scope="module")
def small(photograph: np.ndarray) -> torch.Tensor:
    """(1, 3, 40, 48) in [0, 1]."""
    return torch.from_numpy(photograph[40:200:4, 160:352:4].copy()).permute(2, 0, 1)[None].float() / 255


def result(pipe: TSDSRPipeline, image: torch.Tensor, **options: object) -> np.ndarray:
    return pipe(image, color="none", output_type="pt", **options).images.numpy()


def test_it_is_standard_normal_and_repeatable() -> None:
    noise = grain(16, 40, 30)
    assert (noise.shape, noise.dtype) == ((16, 40, 30), np.float32)
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    for axis in range(3):  # neighbours, and so channels, are independent
        first, second = (np.take(noise, range(start, noise.shape[axis] - 1 + start), axis).ravel() for start in (0, 1))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert np.array_equal(noise, grain(16, 40, 30))


def test_the_pipeline_equals_the_plain_student(model: Model, noisy: Path, noisy_pipe: TSDSRPipeline, small) -> None:
    teacher = load_teacher(model.teacher_dir, text_encoders=False)
    student, _ = load_student(teacher.vae, teacher.transformer, noisy)
    with torch.no_grad():
        z_hat = student(upsample(2 * small - 1, 4), model.prompt)
        noise = torch.from_numpy(grain(*z_hat.shape[1:]))
        expected, without = student.codec.decode(z_hat + NOISE * noise), student.codec.decode(z_hat)
        torch.testing.assert_close(student.decode(z_hat), expected)
    found = result(noisy_pipe, small, tile=None)
    np.testing.assert_allclose(found, (expected.clamp(-1, 1) + 1).numpy() / 2, atol=1e-4)
    assert np.abs(found - (without.clamp(-1, 1) + 1).numpy() / 2).mean() > 0.01


class Echo:
    """Networks whose latents are zero, and whose pictures are the first three channels that the decoder reads."""

    geometry = Geometry(factor=8, patch=2, channels=4, limit=16, largest=64, width=8)
    decoder_noise = NOISE

    def encode(self, pixels: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        return np.zeros((len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8), np.float32)

    def velocity(self, latents: np.ndarray) -> np.ndarray:
        return np.zeros_like(latents)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)

    def free_bytes(self) -> float:
        return 2.0**40

    def item_bytes(self) -> int:
        return 4


@pytest.mark.parametrize("tiling", [Tiling(None), Tiling(96), Tiling(64, 32, 3)])
def test_tiles_have_the_noise_of_their_place(tiling: Tiling) -> None:
    """Noise drawn for each tile would repeat, and fade where tiles overlap."""
    image = np.zeros((2, 3, 40, 48), np.float32)
    found = np.concatenate(list(Upscaler(Echo(), 4.0).strips(image, (160, 192), color="none", tiling=tiling)), axis=2)
    expected = Echo().decode(NOISE * grain(4, 20, 24)[None])
    np.testing.assert_allclose(found, ((expected + 1) / 2).clip(0, 1).repeat(2, axis=0), atol=1e-6)


def test_a_saved_pipeline_gives_the_same(noisy_pipe: TSDSRPipeline, small: torch.Tensor, tmp_path: Path) -> None:
    noisy_pipe.save_pretrained(tmp_path)
    again = TSDSRPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(result(again, small), result(noisy_pipe, small))


def test_graphs_of_before_there_was_noise_have_none(tmp_path: Path) -> None:
    Record(4.0, Echo.geometry, {}, NOISE).write(tmp_path)
    assert Record.read(tmp_path).decoder_noise == NOISE
    record = files.read_json(tmp_path / RECORD)
    del record["decoder_noise"]
    files.write_json(tmp_path / RECORD, record)
    assert Record.read(tmp_path).decoder_noise == 0


def test_a_noise_below_zero_is_refused(tmp_path: Path) -> None:
    Record(4.0, Echo.geometry, {}, -0.1).write(tmp_path)
    with pytest.raises(UserError, match=r"decoder_noise: -0\.1 is no standard deviation"):
        Record.read(tmp_path)


def test_a_compressed_student_has_it_with_the_students_own_decoder_alone(
    model: Model, noisy: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    write_source(model.teacher_dir, noisy, source)
    assert files.read_json(source / "step.json")["decoder_noise"] == NOISE
    cut(load_teacher(source, text_encoders=False).transformer, [0, 3]).save_pretrained(tmp_path / "transformer")
    shape = {"block_out_channels": (16,) * 4, "encoder_blocks": (1,) * 4, "decoder_blocks": (1,) * 4}
    CompactVAE(**shape).save_pretrained(tmp_path / "vae")
    for vae, expected in ((None, NOISE), (tmp_path / "vae", 0.0)):
        write_compressed(source, tmp_path / "transformer", vae, tmp_path / "tinysr")
        assert TSDSRPipeline.from_pretrained(tmp_path / "tinysr").config.decoder_noise == expected
