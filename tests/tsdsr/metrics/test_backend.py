"""Scores against oracles: formulas, scikit-image, and pyiqa called directly without anything of ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tsdsr import weights
from tsdsr.errors import UserError
from tsdsr.metrics import METRICS, backend, separable

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[4] / "shared/data/bench_drealsr"


@pytest.fixture
def pair(photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3), noisy and clean."""
    noise = np.random.default_rng(1).normal(0, 12, photograph.shape)
    return (photograph + noise).clip(0, 255).round().astype(np.uint8), photograph


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def score(name: str, image: np.ndarray, reference: np.ndarray | None = None) -> float:
    references = None if reference is None else tensor(reference)
    return float(backend.scorer(METRICS[name], CPU)(tensor(image), references))


def luma(image: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601 in studio range, [16, 235], float64."""
    return 16 + image.astype(np.float64) / 255 @ np.array([65.481, 128.553, 24.966])


def test_psnr_is_that_of_luma_without_a_crop(pair: tuple[np.ndarray, np.ndarray]) -> None:
    image, reference = pair
    error = np.mean((luma(image) / 255 - luma(reference) / 255) ** 2)
    assert score("psnr", image, reference) == pytest.approx(-10 * np.log10(error + 1e-8), abs=1e-4)


def test_ssim_is_that_of_rounded_luma(pair: tuple[np.ndarray, np.ndarray]) -> None:
    from skimage.metrics import structural_similarity

    image, reference = (luma(item).round() for item in pair)
    expected = structural_similarity(
        image, reference, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert score("ssim", *pair) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["psnr", "ssim", "niqe"])
def test_scores_are_pyiqas_own(
    name: str, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyiqa called as its documentation does, with its own filters put back."""
    arguments = pair if METRICS[name].needs_reference else pair[:1]
    ours = score(name, *arguments)
    assert direct(name, arguments, tmp_path, monkeypatch) == pytest.approx(ours, abs=1e-6)


def test_piqe_is_pyiqas_and_sees_blocks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    import pyiqa

    image = pair[0]
    assert score("piqe", image) == pytest.approx(float(pyiqa.create_metric("piqe", device=CPU)(tensor(image))))
    blocks = np.kron(image[::16, ::16], np.ones((16, 16, 1), np.uint8))[: image.shape[0], : image.shape[1]]
    assert score("piqe", blocks) > score("piqe", image)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/bench_drealsr is not here")
@pytest.mark.parametrize("name", ["Canon_10_x1.png", "sony_100_x1.png"])
def test_scores_of_real_pairs_are_pyiqas_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    with Image.open(SHARED / "lq" / name) as lq, Image.open(SHARED / "hq" / name) as hq:
        reference = np.asarray(hq.convert("RGB"))
        image = np.asarray(lq.convert("RGB").resize(hq.size, Image.Resampling.BICUBIC))
    for metric in ("psnr", "ssim", "niqe"):
        arguments = (image, reference) if METRICS[metric].needs_reference else (image,)
        ours = score(metric, *arguments)
        with monkeypatch.context() as patch:
            assert direct(metric, arguments, tmp_path, patch) == pytest.approx(ours, abs=1e-4), metric


def direct(name: str, images: tuple[np.ndarray, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    import pyiqa
    from pyiqa import matlab_utils
    from pyiqa.archs import func_util, ssim_arch

    monkeypatch.setattr(ssim_arch, "filter2", matlab_utils.filter2)
    monkeypatch.setattr(func_util, "imfilter", matlab_utils.imfilter)
    options = (
        {"pretrained_model_path": str(backend.niqe_parameters(folder))}
        if name == "niqe"
        else {"test_y_channel": True, "color_space": "ycbcr"}
    )
    return float(pyiqa.create_metric(name, device=CPU, **options)(*map(tensor, images)))


def test_niqe_tells_a_photograph_from_noise(photograph: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 255, photograph.shape, dtype=np.uint8)
    assert 1 < score("niqe", photograph) < 8 < score("niqe", noise)


def test_an_image_without_texture_has_no_niqe_and_costs_no_other_its_score(photograph: np.ndarray) -> None:
    flat = tensor(np.full_like(photograph, 128))
    batch = torch.cat([tensor(photograph), flat, tensor(photograph)])
    scores = backend.scorer(METRICS["niqe"], CPU)(batch, None)
    assert scores.isnan().tolist() == [False, True, False]
    assert scores[0] == pytest.approx(score("niqe", photograph), abs=1e-9)


def test_two_passes_equal_one_convolution() -> None:
    images = torch.rand(2, 1, 20, 23, dtype=torch.float64)
    column, row = torch.rand(7, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    expected = functional.conv2d(images, torch.outer(column, row)[None, None])
    torch.testing.assert_close(separable.correlate(images, column, row), expected, rtol=1e-12, atol=1e-12)


def test_only_outer_products_are_split() -> None:
    column, row = torch.rand(5, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    factors = separable.factor(torch.outer(column, row))
    assert factors is not None
    torch.testing.assert_close(torch.outer(*factors), torch.outer(column, row))
    assert separable.factor(torch.eye(5, dtype=torch.float64)) is None


def test_other_kernels_still_go_to_pyiqa() -> None:
    separable.install()
    from pyiqa import matlab_utils
    from pyiqa.archs import func_util, ssim_arch

    images, kernel = torch.rand(1, 1, 12, 12), torch.eye(3)[None, None]
    torch.testing.assert_close(
        ssim_arch.filter2(images, kernel, "valid"), matlab_utils.filter2(images, kernel, "valid")
    )
    torch.testing.assert_close(func_util.imfilter(images, kernel), matlab_utils.imfilter(images, kernel))


def test_absent_weights_are_never_replaced_by_random_ones() -> None:
    for name in ("lpips", "dists", "fid", "musiq", "maniqa", "clipiqa"):
        assert backend.unavailable(METRICS[name]) is not None
        with pytest.raises(UserError, match="are absent"):
            backend.build(METRICS[name], CPU)


def test_weights_come_from_where_they_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: np.ndarray
) -> None:
    """A network of the right shape, saved in a folder that only we search, is the one that scores."""
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.manual_seed(0)
    network = MUSIQ(num_class=1, pretrained=False).eval()
    row = dataclasses.replace(weights.WEIGHTS["musiq"], sha256="")  # this test's own numbers have no published digest
    monkeypatch.setitem(weights.WEIGHTS, "musiq", row)
    (tmp_path / "mine").mkdir()
    torch.save(network.state_dict(), tmp_path / "mine" / row.filename)
    images = tensor(photograph)[..., :64, :64]
    before = torch.hub.get_dir()
    found = backend.scorer(METRICS["musiq"], CPU, [tmp_path / "mine"])(images, None)
    with torch.no_grad():
        assert float(found) == pytest.approx(float(network(images)), abs=1e-6)
    assert torch.hub.get_dir() == before
    assert not (tmp_path / "torch").exists()


def test_a_file_that_is_no_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(weights.WEIGHTS["musiq"], sha256="")
    monkeypatch.setitem(weights.WEIGHTS, "musiq", row)
    (tmp_path / row.filename).write_bytes(b"not a network")
    with pytest.raises(UserError, match="musiq: pyiqa cannot load its weights"):
        backend.build(METRICS["musiq"], CPU, [tmp_path])


class Dangerous:
    """What an unrestricted unpickler would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)


def test_no_file_of_weights_can_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(weights.WEIGHTS["musiq"], sha256="")
    monkeypatch.setitem(weights.WEIGHTS, "musiq", row)
    torch.save({"weight": Dangerous()}, tmp_path / row.filename)
    with pytest.raises(UserError, match="cannot load"):
        backend.build(METRICS["musiq"], CPU, [tmp_path])
    assert not Path("touched").exists()
