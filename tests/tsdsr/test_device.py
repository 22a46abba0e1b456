from __future__ import annotations

import pytest
import torch

from tsdsr import device
from tsdsr.errors import UserError


@pytest.mark.parametrize(("there", "wanted"), [(True, "cuda:0"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.pick() == torch.device(wanted)
    assert device.pick("cpu") == torch.device("cpu")
    assert device.pick("cuda") == torch.device("cuda:0")  # a worker's host may have one, if not this


def test_a_gpu_that_is_not_there_is_told_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device.require(torch.device("cpu"), "distill.device")
    with pytest.raises(UserError, match=r"distill\.device: cuda, and torch finds no GPU here"):
        device.require(torch.device("cuda", 0), "distill.device")


def test_a_gpu_without_a_number_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    for name in ("cuda", "cuda:1"):
        device.require(torch.device(name), "distill.device")
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_kinds(error: Exception, wanted: bool) -> None:
    assert device.out_of_memory(error) == wanted


def test_float32_products_on_a_cpu_stay_exact() -> None:
    before = torch.get_float32_matmul_precision()
    device.use_tensor_cores(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_sent_to_a_gpu_arrives() -> None:
    values = torch.arange(6.0)
    found = device.send(values, torch.device("cuda", 0))
    torch.cuda.synchronize()
    assert torch.equal(found.cpu(), values)
