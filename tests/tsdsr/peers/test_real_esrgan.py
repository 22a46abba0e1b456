"""Real-ESRGAN's weights in ncnn's order: written here by hand, layer by layer, and read back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tsdsr import weights
from tsdsr.errors import UserError
from tsdsr.peers import real_esrgan
from tsdsr.peers.real_esrgan import _network

BLOCKS = 2
ORDER = [
    "conv_first",
    *[f"body.{block}.rdb{rdb}.conv{conv}" for block in range(BLOCKS) for rdb in (1, 2, 3) for conv in range(1, 6)],
    *["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"],
]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = _network(BLOCKS)
    for parameter in network.parameters():
        parameter.data = (0.05 * torch.randn_like(parameter)).half().float()
    return network


@pytest.fixture
def file(network: torch.nn.Module, tmp_path: Path) -> Path:
    state, parts = network.state_dict(), []
    assert {name.rpartition(".")[0] for name in state} == set(ORDER)
    for name in ORDER:
        parts.append(struct.pack("<I", 0x01306B47))
        parts.append(state[f"{name}.weight"].numpy().astype("<f2").tobytes())
        parts.append(state[f"{name}.bias"].numpy().astype("<f4").tobytes())
    path = tmp_path / "weights.bin"
    path.write_bytes(b"".join(parts))
    return path


def test_the_file_gives_the_network_it_was_written_from(network: torch.nn.Module, file: Path) -> None:
    lq = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = network(torch.from_numpy(lq).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0).numpy()
    restored = real_esrgan(file, blocks=BLOCKS)(lq)
    assert restored.shape == (20, 28, 3)
    assert restored.dtype == np.uint8
    np.testing.assert_allclose(restored, np.clip(wanted, 0, 1) * 255, atol=0.5001)
    assert restored.std() > 1


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\0" + data])
def test_a_file_of_another_network_is_refused(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match="not Real-ESRGAN"):
        real_esrgan(file, blocks=BLOCKS)


@pytest.mark.skipif(weights.missing("real-esrgan") is not None, reason="the extra `peers` is not installed")
def test_the_packages_file_is_read_to_its_end_and_enlarges() -> None:
    """A smooth ramp stays one, of four times the size."""
    found = weights.find("real-esrgan")
    assert found is not None
    ramp = np.linspace(40, 200, 24).astype(np.uint8)
    lq = np.repeat(np.repeat(ramp[None, :, None], 24, 0), 3, 2)
    restored = real_esrgan(found.path)(lq).astype(float)
    wanted = np.interp((np.arange(96) + 0.5) / 4 - 0.5, np.arange(24), ramp)
    assert np.abs(restored[8:-8, 8:-8] - wanted[None, 8:-8, None]).mean() < 4
