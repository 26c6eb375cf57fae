"""Sequence norms: their contract, and each against the image norm of the same formula."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms import NORM_FAMILIES, SEQUENCE_NORMS, make_norm, make_sequence_norm

FEATURES = 8
all_norms = pytest.mark.parametrize("name", SEQUENCE_NORMS)

SAME_FORMULA = {"ln": "ln2d", "rms": "rms2d", "bn": "bn", "dyt": "dyt", "derf": "derf", "none": "none"}
"""The image norm that, with tokens as positions and features as channels, is the same."""


exact_norms = pytest.mark.parametrize(
    "name", [name for name, norm in SEQUENCE_NORMS.items() if not norm.has_surrogate_gradient]
)


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Sequences whose tokens and features differ in mean and scale."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale = 0.5 + normal(1, 1, shape[2]).abs() + normal(shape[0], shape[1], 1).abs()
    return (normal(*shape) * scale + 0.5 * normal(1, 1, shape[2])).to(dtype)


def filled(name: str, **options: float) -> nn.Module:
    layer = make_sequence_norm(name, **options)(FEATURES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in layer.state_dict().items():
            if tensor.is_floating_point():
                low = 0.5 if key in ("weight", "running_var", "running_power", "alpha", "g", "a") else -0.5
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return layer


def as_image(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).unsqueeze(-1)  # (N, T, D) -> (N, D, T, 1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", SAME_FORMULA)
def test_is_the_image_norm_of_the_same_formula(name: str, training: bool) -> None:
    eps = {"eps": 1e-5} if name in ("ln", "rms", "bn") else {}
    layer = filled(name, **eps).double().train(training)
    image_layer = make_norm(SAME_FORMULA[name], **eps)(FEATURES).double().train(training)
    image_layer.load_state_dict(layer.state_dict())
    x, image = tokens(3, 5, FEATURES).requires_grad_(), as_image(tokens(3, 5, FEATURES)).requires_grad_()
    y, expected = layer(x), image_layer(image)
    torch.testing.assert_close(as_image(y), expected, rtol=1e-10, atol=1e-12)
    (y * tokens(3, 5, FEATURES, seed=2)).sum().backward()
    (expected * as_image(tokens(3, 5, FEATURES, seed=2))).sum().backward()
    torch.testing.assert_close(as_image(x.grad), image.grad, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(layer.parameters(), image_layer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)
    for key, value in image_layer.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[key], value)


def scale_norm(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    return state["g"] * x / np.sqrt((x**2).sum(-1, keepdims=True))


def seednorm(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """With two heads: arXiv 2510.22777."""
    heads = [np.tanh((x[..., part] * state["b"][part]).sum(-1, keepdims=True)) for part in HALVES]
    scale = np.concatenate([head * state["a"][part] for head, part in zip(heads, HALVES, strict=True)], axis=-1)
    return (scale + state["weight"]) * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def bhyt(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    bound = 2.0 * np.sqrt(x.var(-1, keepdims=True) + 1e-6) + np.abs(x.mean(-1, keepdims=True))
    return state["weight"] * np.tanh(1.5 / bound * x)


def power(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """In evaluation, with two groups: arXiv 2003.07845."""
    halves = [x[..., part] / np.sqrt((x[..., part] ** 2).mean(-1, keepdims=True) + 1e-5) for part in HALVES]
    y = np.concatenate(halves, axis=-1) / np.sqrt(state["running_power"] + 1e-5)
    return y * state["weight"] + state["bias"]


HALVES = (slice(0, FEATURES // 2), slice(FEATURES // 2, FEATURES))
OWN_FORMULA = {
    "scalenorm": (scale_norm, {}),
    "seednorm": (seednorm, {"num_heads": 2}),
    "bhyt": (bhyt, {"strength": 1.5, "width": 2.0}),
    "power": (power, {"groups": 2}),
}


def test_every_sequence_norm_has_a_formula() -> None:
    assert {*SAME_FORMULA, *OWN_FORMULA} == set(SEQUENCE_NORMS)


@pytest.mark.parametrize("name", OWN_FORMULA)
def test_follows_its_formula_and_so_does_its_gradient(name: str) -> None:
    formula, options = OWN_FORMULA[name]
    layer = filled(name, **options).double().eval()
    x = tokens(3, 5, FEATURES)
    state = {key: value.numpy() for key, value in layer.state_dict().items()}
    torch.testing.assert_close(layer(x), torch.from_numpy(formula(x.numpy(), state)), rtol=1e-10, atol=1e-12)
    if name == "power":  # its gradient is none of its formula: test_norms_surrogate
        return
    parameters = dict(layer.named_parameters())

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))
        return y

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *values))


def test_seednorm_starts_as_rms_norm_and_scalenorm_as_rms_norm_without_a_scale() -> None:
    x = tokens(3, 5, FEATURES)
    expected = make_sequence_norm("rms")(FEATURES).double()(x)
    for name in ("seednorm", "scalenorm"):
        torch.testing.assert_close(make_sequence_norm(name)(FEATURES).double()(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@all_norms
def test_shape_and_dtype_are_kept_and_statistics_are_in_float32(name: str, dtype: torch.dtype) -> None:
    layer = filled(name).eval()
    x = tokens(3, 5, FEATURES).to(dtype)
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    expected = copy.deepcopy(layer)(x.float())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    assert (y.float() - expected).abs().max() <= tolerance * expected.abs().max()
    large = (tokens(3, 5, FEATURES) * 300).half()
    assert layer.train()(large).isfinite().all()


@all_norms
def test_the_registry_tells_the_truth(name: str) -> None:
    entry, layer = SEQUENCE_NORMS[name], filled(name)
    x = tokens(4, 5, FEATURES, dtype=torch.float32)
    layer.train()(tokens(4, 5, FEATURES, seed=3, dtype=torch.float32))  # so that running statistics are not those of x
    assert torch.equal(layer.train()(x), layer.eval()(x)) is not entry.train_eval_differ
    assert ((layer.train()(x[:1]) - layer(x)[:1]).abs().max() > 1e-3).item() is entry.batch_dependent
    assert bool(list(layer.buffers())) is (entry.running_state != "none")
    per_feature = sum(parameter.numel() == FEATURES for parameter in layer.parameters())
    assert entry.learnable_per_channel.startswith(str(per_feature))


@exact_norms
def test_an_output_depends_on_the_axes_that_the_registry_names(name: str) -> None:
    x = tokens(3, 4, FEATURES, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(filled(name)(x)[0, 0, 0], x)
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[0, 0, 0] = True
    for axes in SEQUENCE_NORMS[name].axis_sets:
        expected[tuple(slice(None) if axis in axes else slice(0, 1) for axis in "NTD")] = True
    assert torch.equal(gradient != 0, expected)


@all_norms
def test_state_dict_meta_and_compile(name: str) -> None:
    layer = filled(name)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = make_sequence_norm(name)(FEATURES)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    x = tokens(3, 5, FEATURES, dtype=torch.float32)
    assert torch.equal(loaded.eval()(x), layer.eval()(x))
    with torch.device("meta"):
        assert make_sequence_norm(name)(FEATURES)(torch.empty(2, 3, FEATURES)).shape == (2, 3, FEATURES)
    if SEQUENCE_NORMS[name].has_surrogate_gradient:
        return  # it keeps a memory in its backward pass, and traces in two parts
    torch._dynamo.reset()
    compiled = torch.compile(layer.train(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), loaded.train()(x))


def test_a_variance_over_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="single value"):
        make_sequence_norm("ln")(1)(torch.ones(2, 3, 1))
    with pytest.raises(ValueError, match="single value"):
        make_sequence_norm("bhyt")(1)(torch.ones(2, 3, 1))
    with pytest.raises(ConfigError, match=r"seednorm: num_heads=3 does not divide 8 features. Allowed: 1, 2, 4, 8"):
        make_sequence_norm("seednorm", num_heads=3)(8)
    with pytest.raises(ValueError, match="more than 1 value"):
        make_sequence_norm("bn")(4)(torch.ones(1, 1, 4))


def test_unknown_names_and_bad_values_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown sequence norm 'gn'.*Allowed: ln, rms, bn"):
        make_sequence_norm("gn")
    with pytest.raises(UnknownNameError, match=r"option of norm 'ln'.*did you mean 'eps'"):
        make_sequence_norm("ln", epsi=1e-3)
    with pytest.raises(ConfigError, match="rms: eps=0 is not allowed; it must be a number > 0"):
        make_sequence_norm("rms", eps=0)
    with pytest.raises(ConfigError, match="d_model must be at least 1"):
        make_sequence_norm("ln")(0)


@pytest.mark.parametrize("family", NORM_FAMILIES)
def test_a_family_makes_what_it_says(family: str) -> None:
    entry = NORM_FAMILIES[family]
    assert all(isinstance(entry.make(name), entry.factory) for name in entry.norms)
    assert all(entry.make(name).norm is norm for name, norm in entry.norms.items())
