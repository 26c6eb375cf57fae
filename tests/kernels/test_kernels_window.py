"""Local response normalization: the kernels, interpreted on the CPU, against the layer in float64."""

from __future__ import annotations

from typing import Any

import pytest
import test_kernels_moments as moments
import torch

from normbench.layers.norm_act import FusedNormAct
from normbench.norms import make_norm

_poisoned_memory = moments._poisoned_memory
OPTIONS: list[dict[str, Any]] = [{}, {"size": 4, "alpha": 0.5, "beta": 0.5, "k": 2.0}, {"size": 1, "alpha": 0.3}]
OPTIONS += [{"size": 16, "alpha": 2.0}]  # wider than the channels


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_output_and_gradient_match_the_formula(options: dict[str, Any], channels_last: bool) -> None:
    x = moments.images((2, 11, 3, 5), torch.float32, channels_last=channels_last)
    moments.assert_matches(moments.build("lrn", options, 11), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_inputs_are_squared_in_float32(dtype: torch.dtype) -> None:
    x = moments.images((2, 8, 1, 1), dtype, channels_last=True) * 300
    moments.assert_matches(moments.build("lrn", {}, 8), x)


def test_a_wider_window_is_left_to_the_layer() -> None:
    fused = FusedNormAct(make_norm("lrn", size=17)(4))
    fused(torch.randn(1, 4, 2, 2))
    assert fused.path == "native: a window of 17 channels exceeds 16"
