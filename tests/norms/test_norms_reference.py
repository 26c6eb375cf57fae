"""Every norm against its paper's formula in NumPy, and its float32 run against its float64 run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from norm_cases import CASES, CHANNELS, EXACT, EXACT_IDS, IDS, SIZE, build, fill, images, relative_error
from norm_reference import REFERENCES, batch_renorm_correction
from torch import nn

from normbench.norms import NORMS

SAMPLES = 5


def filled(name: str, options: dict[str, object], dtype: torch.dtype, *, trains: bool) -> nn.Module:
    layer = build(name, options).to(dtype).train(trains)
    return fill(layer, torch.Generator().manual_seed(1))


def numpy_state(layer: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in layer.state_dict().items()}


def all_options(name: str, options: dict[str, object]) -> dict[str, object]:
    return {key: option.default for key, option in NORMS[name].options.items()} | options


def forward_and_gradients(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, and gradients of a weighted sum of it by the input and each parameter."""
    x = x.clone().requires_grad_()
    y = layer(x)
    cotangent = images(*x.shape, seed=9).to(x.dtype)
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(y, [x, *parameters.values()], cotangent)
    return {"output": y.detach(), **dict(zip(["x", *parameters], gradients, strict=True))}


def test_every_norm_has_a_reference() -> None:
    assert set(REFERENCES) == set(NORMS)
    assert {name for name, _ in CASES} == set(NORMS)


@pytest.mark.parametrize("trains", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float64_forward_and_running_state_follow_the_formula(
    name: str, options: dict[str, object], trains: bool
) -> None:
    layer = filled(name, options, torch.float64, trains=trains)
    x = images(SAMPLES, CHANNELS, SIZE, SIZE)
    expected, after = REFERENCES[name](x.numpy(), numpy_state(layer), all_options(name, options), trains)

    before = numpy_state(layer)
    assert relative_error(layer(x).detach(), torch.from_numpy(expected)) <= 1e-10
    for key, value in numpy_state(layer).items():
        if key in after:
            np.testing.assert_allclose(value, after[key], rtol=1e-10, atol=1e-12, err_msg=key)
        elif not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, before[key], err_msg=key)


@pytest.mark.parametrize(("name", "options"), EXACT, ids=EXACT_IDS)
def test_gradients_are_those_of_the_formula(name: str, options: dict[str, object]) -> None:
    """Against central differences of the NumPy formula, at a few coordinates of the input and of each parameter."""
    layer = filled(name, options, torch.float64, trains=True)
    x = images(3, CHANNELS, SIZE, SIZE)
    state, settings = numpy_state(layer), all_options(name, options)
    if name == "brn":
        r, d = settings["correction"] = batch_renorm_correction(x.numpy(), state, settings)
        for values, limit in ((np.log(r), np.log(2.0)), (d, 0.5)):  # some channels at the limit, some within
            assert 0 < (np.abs(values) < 0.999 * limit).sum() < CHANNELS
    cotangent = images(*x.shape, seed=9).numpy()
    actual = forward_and_gradients(layer, x)
    rng = np.random.default_rng(0)

    for key in [key for key in actual if key != "output"]:
        scale = float(actual[key].abs().max())
        for flat in rng.choice(actual[key].numel(), size=min(3, actual[key].numel()), replace=False):
            losses = []
            for step in (1e-5, -1e-5):
                inputs = {**state, "x": x.numpy()}
                changed = inputs[key].copy()
                changed.reshape(-1)[flat] += step
                inputs[key] = changed
                y, _ = REFERENCES[name](inputs.pop("x"), inputs, settings, True)
                losses.append((y * cotangent).sum())
            numeric = (losses[0] - losses[1]) / 2e-5
            assert float(actual[key].reshape(-1)[flat]) == pytest.approx(numeric, abs=1e-7 * scale, rel=1e-6), key


@pytest.mark.parametrize("trains", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float32_agrees_with_float64(name: str, options: dict[str, object], trains: bool) -> None:
    x = images(16, CHANNELS, SIZE, SIZE, dtype=torch.float32)
    layers = {dtype: filled(name, options, dtype, trains=trains) for dtype in (torch.float32, torch.float64)}
    layers[torch.float64].load_state_dict(layers[torch.float32].state_dict())  # the same values, rounded to float32
    single, double = (forward_and_gradients(layer, x.to(dtype)) for dtype, layer in layers.items())
    errors = {key: relative_error(single[key], double[key]) for key in double}
    assert max(errors.values()) <= 1e-5, errors
