import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tsdsr.inference.tiles.resample import bicubic, bicubic_window


def reference(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=False)


@pytest.mark.parametrize("size", [(40, 60), (10, 15), (17, 33), (80, 120), (11, 95)])
def test_equals_torch(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, 10, 15, dtype=torch.float64)
    ours = bicubic(image.numpy(), size)
    np.testing.assert_allclose(ours, reference(image, size), atol=1e-9)


def test_a_window_is_a_crop_and_goes_on_past_the_edge() -> None:
    image = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    size = (36, 28)
    whole = F.pad(reference(image, size), (0, 6, 0, 4), mode="replicate")
    window = bicubic_window(image.numpy(), size, rows=(13, 40), columns=(20, 34))
    np.testing.assert_allclose(window, whole[:, :, 13:40, 20:34], atol=1e-9)
