"""The one reading of loss and norm that stands for upstream's own reading of the loss."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lora_training.runtime import run  # noqa: E402 - needs torch


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_after_the_backward_pass_the_loss_is_on_the_host_and_the_same(device: str, kind: str) -> None:
    weight = torch.tensor([0.1, 0.7], device=device, requires_grad=True)
    loss = (weight * 3).sum().to(getattr(torch, kind))
    expected = loss.detach().item()
    loss.backward()
    norm = weight.grad.norm()
    assert run._transfer(loss, norm) == (expected, norm.item())
    assert loss.device.type == "cpu"
    assert loss.detach().item() == expected
    assert loss.dtype == getattr(torch, kind)
    assert weight.grad.tolist() == [3.0, 3.0]


def test_what_is_not_finite_comes_through() -> None:
    loss, norm = torch.tensor(float("nan")), torch.tensor(float("inf"))
    read = run._transfer(loss, norm)
    assert (read[0] != read[0], read[1]) == (True, float("inf"))
    assert loss.isnan()
