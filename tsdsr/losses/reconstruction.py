"""Reconstruction losses, Eq. (7): LPIPS between images, and the early phase's mean squared error between latents."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn

from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

# torchvision's backbones by their names in the hub; the eight hex digits are the beginning of the file's sha256.
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


def latent_mse(z_hat: Tensor, z: Tensor) -> Tensor:
    """(B,): mean squared error of latents (B, C, h, w), in float32 or wider."""
    wide = torch.promote_types(z_hat.dtype, torch.float32)
    return (z_hat.to(wide) - z.to(wide)).pow(2).flatten(1).mean(1)


def latent_l1(z_hat: Tensor, z: Tensor) -> Tensor:
    """(B,): mean absolute error of latents (B, C, h, w), in float32 or wider."""
    wide = torch.promote_types(z_hat.dtype, torch.float32)
    return (z_hat.to(wide) - z.to(wide)).abs().flatten(1).mean(1)


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al., arXiv 1801.03924) as `lpips` implements it, frozen.

    Args:
        net: `alex` or `vgg`.
        weights: `published` (the backbone's ImageNet weights), or `random`: the features of an untrained network, drawn
            from a fixed seed. The second is not an LPIPS score but a multi-scale feature distance for training without
            the published weights, and must be reported as such.
        path: the backbone's file; None: torch's hub cache.
        download: whether to fetch a missing backbone through torch's hub.

    Raises:
        UserError: the `published` weights were not found.
    """

    def __init__(self, net: str, weights: str, path: str | None = None, *, download: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if weights == "published":
            _load_backbone(self.lpips.net, _find_backbone(net, path, download))
        else:
            logger.warning("LPIPS runs on an untrained %s network (lpips.weights: random): no published LPIPS", net)
        self.eval().requires_grad_(False)

    def forward(self, x_hat: Tensor, hq: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] twice -> (B,)."""
        return self.lpips(x_hat.float(), hq.float()).flatten()


def _find_backbone(net: str, path: str | None, download: bool) -> Path:
    hub = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
    wanted = Path(path) if path else hub
    if wanted.is_file():
        return wanted
    if download and not path:
        import torchvision

        enum = torchvision.models.AlexNet_Weights if net == "alex" else torchvision.models.VGG16_Weights
        try:
            torch.hub.load_state_dict_from_url(enum.IMAGENET1K_V1.url, check_hash=True, weights_only=True)
            return hub
        except OSError as error:
            raise UserError(f"the LPIPS backbone {BACKBONES[net]} could not be downloaded: {error}") from None
    raise UserError(
        f"LPIPS's published {net} backbone is not at {wanted}. Put {BACKBONES[net]} there (`tsdsr weights fetch`, or "
        "`tsdsr weights import DIR`), set distill.lpips.path to it, set distill.lpips.download: true, or set "
        "distill.lpips.weights: random to train with an untrained network's features."
    )


def _load_backbone(net: nn.Module, path: Path) -> None:
    """Copy torchvision's `features.<i>` into lpips's slices, whose children are named by the same i."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {name: f"features.{name.split('.', 1)[1]}" for name, _ in net.named_parameters()}
        net.load_state_dict({name: state[key] for name, key in wanted.items()}, strict=False)
    except (KeyError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not the backbone of LPIPS: {error}") from None
