from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tsdsr.live_memory import LiveMemory, fused_attention


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_peak_counted_by_hand(device):
    """y = relu(x W) and its backward: 1,000 x 100 numbers each for x, x W and y; the gradient of y takes y's place."""
    x, weight = torch.randn(1000, 100, device=device), torch.randn(100, 100, device=device, requires_grad=True)
    with LiveMemory(torch.device(device), [x, weight]) as memory:
        assert memory.held == 4 * (100_000 + 10_000)
        y = torch.relu(x @ weight)
        assert memory.held == 4 * (2 * 100_000 + 10_000)
        assert memory.peak == 4 * (3 * 100_000 + 10_000)
        y.backward(y.detach())
        assert memory.held == 4 * (2 * 100_000 + 2 * 10_000)  # the weight's gradient stays
        assert memory.peak == 4 * (3 * 100_000 + 2 * 10_000)  # relu's gradient beside x and y
        del y
        assert memory.held == 4 * (100_000 + 2 * 10_000)


def test_views_and_other_devices_do_not_count():
    x = torch.zeros(10, 10)
    with LiveMemory(torch.device("cpu"), [x]) as memory:
        views = [x.t(), x[:3], x.flatten()]
        elsewhere = torch.empty(1000, device="meta")
        x += 1
        assert memory.held == memory.peak == 400
    assert len(views) == 3
    assert elsewhere.is_meta


def test_attention_on_meta_keeps_no_matrix():
    q = torch.randn(1, 2, 512, 8, device="meta", requires_grad=True)
    matrix = 4 * 2 * 512 * 512
    peaks = []
    for fused in (False, True):
        with LiveMemory(torch.device("meta"), [q]) as memory:
            if fused:
                with fused_attention():
                    functional.scaled_dot_product_attention(q, q, q).sum().backward()
            else:
                functional.scaled_dot_product_attention(q, q, q).sum().backward()
        peaks.append(memory.peak)
    assert peaks[0] > matrix
    assert peaks[1] < matrix / 4
    plain = functional.scaled_dot_product_attention
    x = torch.randn(1, 2, 16, 8)
    with fused_attention():  # real tensors, and what the fused kernels do not do, are left alone
        assert torch.equal(functional.scaled_dot_product_attention(x, x, x), plain(x, x, x))
    assert functional.scaled_dot_product_attention is plain
