"""The registry, its options, and what a wrong one is told."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms import NORMS, SEQUENCE_NORMS, WEIGHTS, Norm, make_norm
from normbench.registry import load


def parameters_of(target: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(load(target)).parameters)


@pytest.mark.parametrize(
    ("size", "norm"),
    [*(("num_channels", norm) for norm in NORMS.values()), *(("d_model", norm) for norm in SEQUENCE_NORMS.values())],
)
def test_options_are_those_of_the_builder(size: str, norm: Norm) -> None:
    parameters = parameters_of(norm.build)
    assert next(iter(parameters)) == size
    parameters.pop(size)
    assert (parameters.pop("activation", None) is not None) is norm.replaces_activation
    if norm.needs_size:
        parameters.pop("size")
    for name_of_fixed in norm.fixed:
        parameters.pop(name_of_fixed)
    assert {key: option.default for key, option in norm.options.items()} == {
        key: parameter.default for key, parameter in parameters.items()
    }
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())


@pytest.mark.parametrize("key", WEIGHTS)
def test_weight_builders_take_what_the_factory_gives(key: str) -> None:
    expected = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "bias"]
    assert list(parameters_of(WEIGHTS[key].build)) == expected


@pytest.mark.parametrize("name", NORMS)
def test_defaults_are_allowed_and_described(name: str) -> None:
    for option in NORMS[name].options.values():
        option.check("option", option.default)
        assert option.help
        assert option.allowed


def test_labels_and_full_names_are_unique() -> None:
    for values in ([norm.label for norm in NORMS.values()], [norm.full_name for norm in NORMS.values()]):
        assert len(set(values)) == len(values)
    assert "LN" not in {norm.label for norm in NORMS.values()}  # which LN it is, is always said


def test_the_registry_needs_no_torch() -> None:
    code = "import sys, normbench.norms; normbench.norms.make_norm('gn', groups=2); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gn", {"groups": 0}, "gn: groups=0 is not allowed; it must be an integer >= 1"),
        ("gn", {"groups": 2.0}, "gn: groups=2.0 is not allowed; it must be an integer >= 1"),
        ("gn", {"groups": True}, "gn: groups=True is not allowed; it must be an integer >= 1"),
        ("gn", {"groups": None}, "gn: groups=None is not allowed; it must be an integer >= 1"),
        ("gn", {"groups": 8, "group_size": 2}, "gn: give one of groups and group_size, not both"),
        ("bn", {"eps": -1e-5}, "bn: eps=-1e-05 is not allowed; it must be a number > 0"),
        ("bn", {"eps": "small"}, "bn: eps='small' is not allowed; it must be a number > 0"),
        ("bn", {"eps": float("nan")}, "bn: eps=nan is not allowed; it must be a number > 0"),
        ("bn", {"momentum": 1.5}, "bn: momentum=1.5 is not allowed; it must be a number >= 0 and <= 1"),
        ("bn", {"affine": 1}, "bn: affine=1 is not allowed; it must be true or false"),
        ("ibn", {"ratio": 1}, "ibn: ratio=1 is not allowed; it must be a number > 0 and < 1"),
        ("brn", {"r_max": 0.5}, "brn: r_max=0.5 is not allowed; it must be a number >= 1"),
        ("evonorm_s0", {"groups": 0}, "evonorm_s0: groups=0 is not allowed; it must be an integer >= 1 or null"),
        (
            "none",
            {"init": "fixap"},
            "none: init='fixap' is not a choice; did you mean 'fixup'? Allowed: default, fixup",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_norm(name, **options)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "options", "channels", "message"),
    [
        ("gn", {"groups": 3}, 8, "gn: groups=3 does not divide 8 channels. Allowed: 1, 2, 4, 8"),
        ("gn", {"group_size": 5}, 8, "gn: group_size=5 does not divide 8 channels. Allowed: 1, 2, 4, 8"),
        ("group_rms", {}, 6, "group_rms: groups=4 does not divide 6 channels. Allowed: 1, 2, 3, 6"),
        ("bcn", {"groups": 3}, 8, "bcn: groups=3 does not divide 8 channels. Allowed: 1, 2, 4, 8"),
        ("evonorm_s2", {"groups": 16}, 8, "evonorm_s2: groups=16 does not divide 8 channels. Allowed: 1, 2, 4, 8"),
        ("ibn", {"ratio": 0.1}, 8, "ibn: ratio=0.1 of 8 channels leaves none for instance normalization"),
        ("brn", {"ramp_start": 0.6}, 8, "brn: ramp_start=0.6 must be below r_ramp_end=0.5 and d_ramp_end=0.3125"),
        ("ln_chw", {}, 8, "ln_chw has parameters per pixel, so the image size must be given"),
        ("bn", {}, 0, "bn: num_channels must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_the_channels_is_refused_at_construction(
    name: str, options: dict[str, object], channels: int, message: str
) -> None:
    factory = make_norm(name, **options)  # type: ignore[arg-type]
    for make in (factory, factory.norm_act):
        with pytest.raises(ConfigError) as error:
            make(channels)
        assert str(error.value).startswith(message)


def test_unknown_names() -> None:
    for name, options in (("gm", {}), ("gn+wz", {}), ("gn", {"group": 2}), ("gn+", {})):
        with pytest.raises(UnknownNameError, match="Allowed: "):
            make_norm(name, **options)


def test_layer_norm_per_element_says_which_shape_it_was_built_for() -> None:
    layer = make_norm("ln_chw")(4, size=(3, 5))
    assert layer(torch.ones(2, 4, 3, 5)).shape == (2, 4, 3, 5)
    with pytest.raises(ValueError, match=r"built for \(C, H, W\) = \(4, 3, 5\), but the input is \(2, 4, 5, 3\)"):
        layer(torch.ones(2, 4, 5, 3))


def test_default_groups_adapt_to_the_channels() -> None:
    for channels, groups in ((64, 32), (48, 24), (8, 8), (7, 7), (1, 1), (37, 1)):
        assert make_norm("evonorm_s0")(channels).num_groups == groups
    for channels, groups in ((64, 32), (48, 24), (8, 4), (7, 1), (1, 1)):
        assert make_norm("bcn")(channels).num_groups == groups


def test_the_factory_adds_relu_where_the_norm_has_no_activation() -> None:
    for name, norm in NORMS.items():
        layer = make_norm(name).norm_act(8, size=4)
        assert any(isinstance(module, nn.ReLU) for module in layer.modules()) is not norm.replaces_activation


def test_relu_after_no_norm_leaves_its_input_alone() -> None:
    """In a pre-activation block the input is the shortcut too."""
    x = -torch.ones(1, 8, 2, 2)
    make_norm("none").norm_act(8)(x)
    assert (x == -1).all()


def test_residual_init_is_an_option_of_none() -> None:
    assert make_norm("none").residual_init == make_norm("bn").residual_init == "default"
    assert make_norm("none", init="skipinit").residual_init == "skipinit"


def option_values(name: str) -> st.SearchStrategy[dict[str, object]]:
    """Options that the registry allows, each perhaps left out."""
    strategies: dict[str, st.SearchStrategy[object]] = {}
    for key, option in NORMS[name].options.items():
        if option.choices:
            strategies[key] = st.sampled_from(option.choices)
        elif option.type is bool:
            strategies[key] = st.booleans()
        elif option.type is int:
            strategies[key] = st.integers(1, 8)
        else:
            low = max(option.above + 1e-6, option.minimum, -3.0)
            strategies[key] = st.floats(low, max(low, min(option.below - 1e-6, option.maximum, 3.0)))
    return st.fixed_dictionaries({}, optional=strategies)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_allowed_options_shape_and_dtype_work_or_are_refused_with_a_reason(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(NORMS)))
    options = data.draw(option_values(name))
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout).requires_grad_()
    reason = None
    try:
        layer = make_norm(name, **options).norm_act(shape[1], size=shape[2:])  # type: ignore[arg-type]
        if dtype == torch.float64:
            layer.double()
        y = layer(x)
    except ValueError as error:
        reason = error
    if reason is not None:
        assert isinstance(reason, ConfigError) or any(
            why in str(reason) for why in ("single value", "more than 1 value")
        )
        return
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
