"""Needs a CUDA device: the layers compute there what they compute in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch
from norm_cases import CASES, CHANNELS, IDS, SIZE, build, fill, images, relative_error

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_output_gradients_dtype_and_memory_format(
    name: str, options: dict[str, object], layout: torch.memory_format
) -> None:
    single = fill(build(name, options), torch.Generator().manual_seed(1))
    double = build(name, options).double()
    double.load_state_dict(single.state_dict())
    single.cuda()
    x = images(16, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    results = []
    for layer, inputs in ((single, x.cuda().contiguous(memory_format=layout)), (double, x.double())):
        inputs.requires_grad_()
        y = layer(inputs)
        cotangent = images(*x.shape, seed=9).to(inputs)
        gradients = torch.autograd.grad(y, [inputs, *layer.parameters()], cotangent)
        results.append([y, *gradients])
    assert results[0][0].is_contiguous(memory_format=layout)
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual.cpu(), expected) <= 1e-5

    low = x.cuda().bfloat16().contiguous(memory_format=layout)
    for y in (single(low), single.eval()(low)):
        assert y.dtype == torch.bfloat16
        assert y.is_contiguous(memory_format=layout)
