"""Layer normalization with parameters for each element: the kernels, interpreted, against the layer in float64."""

from __future__ import annotations

from typing import Any

import pytest
import test_kernels_moments as moments
import torch
from torch import nn

from normbench.kernels import PixelSpec, norm_act, tiling
from normbench.layers.norm_act import FusedNormAct
from normbench.norms import make_norm

_poisoned_memory = moments._poisoned_memory
WAYS: dict[str, dict[str, int]] = {
    "one program a sample": {"PROGRAMS": 2},
    "samples shared": {"PIXEL_TILE": 64, "LOOP_TILE": 32, "LINE_CHANNELS": 8, "PROGRAMS": 12},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for constant, value in WAYS[request.param].items():
        monkeypatch.setattr(tiling, constant, value)
    return str(request.param)


def test_ways_are_what_they_say(way: str) -> None:
    chosen = tiling.tile_pixels(5, 15, 11)
    assert (chosen.parts > 1, chosen.tiles > 1, chosen.samples_per > 1) == (
        (False, False, True) if way == "one program a sample" else (True, True, True)
    )


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("options", [{}, {"affine": False}], ids=str)
def test_output_and_gradients_match_the_formula(options: dict[str, Any], channels_last: bool, way: str) -> None:
    x = moments.images((5, 11, 3, 5), torch.float32, channels_last=channels_last)
    moments.assert_matches(moments.build("ln_chw", options, 11, (3, 5)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_inputs_keep_float32_statistics(dtype: torch.dtype) -> None:
    x = moments.images((3, 8, 1, 3), dtype, channels_last=True)
    moments.assert_matches(moments.build("ln_chw", {}, 8, (1, 3)), x)


def test_variance_survives_a_mean_a_thousand_times_the_deviation(way: str) -> None:
    """A one-pass E[x^2] - E[x]^2 in float32 would lose the variance here."""
    x = moments.images((5, 11, 3, 5), torch.float32, channels_last=True, shift=1000.0)
    moments.assert_matches(moments.build("ln_chw", {}, 11, (3, 5)), x, tolerance=1e-3)


def test_results_are_the_same_bits_in_every_run(way: str) -> None:
    x = moments.images((5, 11, 3, 5), torch.bfloat16, channels_last=True)
    module = moments.build("ln_chw", {}, 11, (3, 5))
    first, second = (moments.results(module, x, torch.ones_like(x)) for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_another_resolution_is_left_to_the_layer_which_refuses_it() -> None:
    fused = FusedNormAct(make_norm("ln_chw")(4, size=3), nn.ReLU())
    with pytest.raises(ValueError, match="built for"):
        fused(torch.randn(2, 4, 5, 5))
    with pytest.raises(ValueError, match="weight and bias must both be"):
        norm_act(torch.randn(2, 4, 3, 3), PixelSpec(shape=(4, 3, 3)), weight=torch.ones(4, 3, 3))
