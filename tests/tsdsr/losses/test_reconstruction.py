from __future__ import annotations

import logging

import lpips
import pytest
import torch

from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.losses.reconstruction import BACKBONES, PerceptualLoss, latent_mse


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = seeding.generator(seed, "images")
    x_hat, hq = (torch.rand(2, 3, 64, 64, generator=draw) * 2 - 1 for _ in range(2))
    return x_hat, hq


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """A hub cache with nothing in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def backbone_file(path, net: str = "alex"):
    """A file in torchvision's layout, with values of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).net
    state = {f"features.{name.split('.', 1)[1]}": value.detach() for name, value in model.named_parameters()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"classifier.1.weight": torch.zeros(3)}, path)
    return model


def test_latent_mse_is_per_sample_and_wide():
    draw = seeding.generator(0, "mse")
    z_hat, z = (torch.randn(2, 4, 3, 3, generator=draw) for _ in range(2))
    torch.testing.assert_close(latent_mse(z_hat, z), ((z_hat - z) ** 2).mean((1, 2, 3)))
    assert latent_mse(z_hat.bfloat16(), z.bfloat16()).dtype == torch.float32


def test_random_weights_are_the_same_every_time_and_are_announced(caplog):
    x_hat, hq = images()
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING):
        first = PerceptualLoss("alex", "random")(x_hat, hq)
    torch.manual_seed(2)
    assert torch.equal(first, PerceptualLoss("alex", "random")(x_hat, hq))
    assert "untrained" in caplog.text
    assert first.shape == (2,)
    assert (first > 0).all()


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    PerceptualLoss("alex", "random")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_equal_images_are_at_no_distance_and_the_gradient_reaches_the_first():
    x_hat, hq = images()
    loss = PerceptualLoss("alex", "random")
    assert float(loss(hq, hq).max()) == 0
    x_hat.requires_grad_(True)
    loss(x_hat, hq).mean().backward()
    assert float(x_hat.grad.abs().max()) > 0
    assert all(not parameter.requires_grad for parameter in loss.parameters())


def test_published_weights_are_loaded_from_a_path_or_the_hub(no_hub, tmp_path):
    x_hat, hq = images()
    wanted = backbone_file(tmp_path / "mine.pth")
    backbone_file(no_hub / BACKBONES["alex"])
    for path in (str(tmp_path / "mine.pth"), None):
        loss = PerceptualLoss("alex", "published", path)
        found = dict(loss.lpips.net.named_parameters())
        assert all(torch.equal(found[name], value) for name, value in wanted.named_parameters())
        assert not torch.equal(loss(x_hat, hq), PerceptualLoss("alex", "random")(x_hat, hq))


@pytest.mark.usefixtures("no_hub")
def test_absent_weights_say_where_they_were_looked_for_and_what_to_do():
    with pytest.raises(UserError, match=f"{BACKBONES['alex']}.*lpips.weights: random"):
        PerceptualLoss("alex", "published")


def test_a_file_that_is_no_backbone_is_named(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "wrong.pth")
    (tmp_path / "damaged.pth").write_bytes(b"not a checkpoint")
    for name in ("wrong.pth", "damaged.pth"):
        with pytest.raises(UserError, match=name):
            PerceptualLoss("alex", "published", str(tmp_path / name))
