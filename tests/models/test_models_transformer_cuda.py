"""Attention on a GPU in bf16, where the kernel that torch would choose is not right for every input."""

import pytest
import torch

from normbench.models.transformer import MultiHeadAttention

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_gradients_of_low_scores_are_finite_and_right(masked: bool) -> None:
    """All scores of a query below -88.7, the logarithm of float32's largest number, and 64 tokens, as in `vit`."""
    layer = MultiHeadAttention(192, 3)
    with torch.no_grad():
        layer.query_key_value.weight[: 2 * 192 : 64] = 0.0  # the first feature of each head's queries and keys
        query, key, _ = layer.query_key_value.bias.split(192)
        query[::64], key[::64] = 1.0, -120.0 * 8  # each score is near -120
    x = torch.randn(8, 64, 192, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 64, 64) if masked else None
    gradients = {}
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        inputs = x.detach().to(device, copy=True).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            layer(inputs, None if mask is None else mask.to(device)).float().square().sum().backward()
        weight = layer.query_key_value.weight.grad
        assert inputs.grad is not None
        assert weight is not None
        gradients[device] = inputs.grad.cpu(), weight.cpu().clone()  # the next `layer.to` moves `weight` itself
        assert all(gradient.isfinite().all() for gradient in gradients[device])
        gradients[device][1][:192:64] = 0.0  # -960 times a sum that is 0 but for rounding
    for on_gpu, on_cpu in zip(gradients["cuda"], gradients["cpu"], strict=True):
        assert (on_gpu - on_cpu).norm() / on_cpu.norm() < 0.05
