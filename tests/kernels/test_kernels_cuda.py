"""Needs a CUDA device: the compiled kernels against their formulas in float64, on memory filled with NaN beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import test_kernels_conv as layer_conv
import test_kernels_formulas as formulas
import test_kernels_head as head
import test_kernels_image_conv as image_conv
import test_kernels_moments as moments
import torch
from torch import nn

from normbench import NORMS, make_norm
from normbench.kernels import MomentsSpec, NormActSpec, PixelSpec, WindowSpec, convolve, convolve_images, pooled_linear
from normbench.kernels.conv import Relu
from normbench.layers.norm_act import FusedNormAct

pytestmark = pytest.mark.gpu
_poisoned_memory = formulas._poisoned_memory


def norm_and_relu(norm: str, shape: tuple[int, ...]) -> nn.Module:
    return make_norm(norm).norm_act(shape[1], size=shape[2:])


def fused_by(norm: str, kind: Any) -> bool:
    """Return whether kernels of that kind of description compute the norm."""
    module = norm_and_relu(norm, (2, 96, 4, 4))
    return isinstance(module, FusedNormAct) and isinstance(module.spec, kind)


FUSED = [norm for norm in NORMS if fused_by(norm, NormActSpec)]
BY_MOMENTS = [norm for norm in NORMS if fused_by(norm, MomentsSpec | WindowSpec | PixelSpec)]
"""A norm that gets a kernel is tested without being named here."""
LAYERS = {
    "first layer of NormResNet": ((64, 64, 32, 32), torch.bfloat16, True),
    "first layer, large batch": ((1024, 64, 32, 32), torch.bfloat16, True),
    "last layer": ((64, 512, 4, 4), torch.bfloat16, True),
    "odd, contiguous": ((3, 96, 33, 33), torch.float32, False),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", FUSED)
def test_norms_match_the_formula(norm: str, layer: str) -> None:
    shape, dtype, channels_last = LAYERS[layer]
    module = norm_and_relu(norm, shape)
    names = (name.rpartition(".")[2] for name, _ in module.named_parameters())
    learned = " ".join(name if name in ("weight", "bias") else "extra" for name in names)
    _assert_matches_formula(shape, module.spec, learned, dtype, channels_last=channels_last)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", BY_MOMENTS)
def test_norms_by_several_statistics_match_the_formula(norm: str, layer: str) -> None:
    shape, dtype, channels_last = LAYERS[layer]
    x = moments.images(shape, dtype, channels_last=channels_last).cuda()
    moments.assert_matches(moments.build(norm, {}, shape[1], shape[2:]).cuda(), x)


@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.float16, False)], ids=str)
@pytest.mark.parametrize(
    ("norm", "options"), [*moments.OPTIONS, ("lrn", {}), ("lrn", {"size": 4}), ("ln_chw", {})], ids=str
)
def test_small_and_odd_shapes_by_several_statistics_match_too(
    norm: str, options: dict[str, object], dtype: torch.dtype, channels_last: bool
) -> None:
    for shape in ((5, 12, 7, 5), (37, 36, 1, 2), (2, 60, 65, 63)):
        x = moments.images(shape, dtype, channels_last=channels_last).cuda()
        moments.assert_matches(moments.build(norm, options, shape[1], shape[2:]).cuda(), x)


@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.bfloat16, False)], ids=str)
@pytest.mark.parametrize("case", formulas.CASES | formulas.POSITION_CASES)
def test_small_and_odd_shapes_match_the_formula(case: str, dtype: torch.dtype, channels_last: bool) -> None:
    shape, spec, learned = (formulas.CASES | formulas.POSITION_CASES)[case]
    _assert_matches_formula(shape, spec, learned, dtype, channels_last=channels_last)


def _assert_matches_formula(shape, spec, learned: str, dtype: torch.dtype, *, channels_last: bool) -> None:
    x, parameters, grad = formulas.random_case(shape, dtype, channels_last=channels_last, learned=learned)
    on_device = [None if parameter is None else parameter.cuda() for parameter in parameters]
    formulas.assert_matches_formula(x.cuda(), spec, on_device, grad.cuda())


@pytest.mark.parametrize("shape", [*image_conv.SHAPES, (64, 3, 32, 32, 64), (1024, 3, 32, 32, 64)], ids=str)
def test_convolution_of_images_matches_torch_and_repeats(shape: tuple[int, int, int, int, int]) -> None:
    images, weight, grad = image_conv.draw(shape, whole=False, dtype=torch.bfloat16)
    leaf = weight.cuda().requires_grad_()
    y = convolve_images(images.cuda(), leaf)
    gradients = [torch.autograd.grad(y, leaf, grad.cuda(), retain_graph=True)[0] for _ in range(2)]
    _assert_close([y, gradients[0]], image_conv.expected(images, weight, grad))
    assert torch.equal(*gradients)


LAYER_CONVOLUTIONS: list[layer_conv.Shape] = [
    *layer_conv.SHAPES,
    *((n, c, size, size, 2 * c, 3, 2) for n in (64, 16) for c, size in ((64, 32), (128, 16), (256, 8))),
    (8, 128, 32, 32, 128, 3, 1),
    (64, 512, 4, 4, 512, 3, 1),
    (64, 64, 32, 32, 128, 1, 2),
    (5, 192, 17, 13, 80, 3, 2),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", LAYER_CONVOLUTIONS, ids=str)
def test_convolution_between_layers_matches_torch_and_repeats(shape: layer_conv.Shape, dtype: torch.dtype) -> None:
    x, weight, grad = (tensor.cuda() for tensor in layer_conv.draw(shape, dtype))
    first, second = (layer_conv.outputs_and_gradients(x, weight, grad, shape[-1]) for _ in range(2))
    layer_conv.assert_close(first, [e.cpu() for e in layer_conv.expected(x, weight, grad, shape[-1])], 4e-3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", LAYER_CONVOLUTIONS[:6] + LAYER_CONVOLUTIONS[-4:], ids=str)
def test_convolution_between_layers_adds_a_bias_and_repeats(shape: layer_conv.Shape, dtype: torch.dtype) -> None:
    x, weight, grad = layer_conv.draw(shape, dtype)
    bias = layer_conv.draw_bias(len(weight))
    padding = weight.shape[2] // 2
    wanted = nn.functional.conv2d(x.double(), weight.double(), bias.double(), stride=shape[-1], padding=padding)
    leaf = bias.cuda().requires_grad_()
    for relu in (None, Relu()):
        y = convolve(x.cuda(), weight.cuda(), shape[-1], bias=leaf, relu=relu)
        first, second = (torch.autograd.grad(y, leaf, grad.cuda(), retain_graph=True)[0] for _ in range(2))
        passed = grad.double() if relu is None else grad.double() * (y.detach().cpu() > 0)
        layer_conv.assert_close([y.detach(), first], [wanted if relu is None else wanted.relu(), passed.sum((0, 2, 3))])
        assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [*image_conv.SHAPES, (256, 3, 32, 32, 64)], ids=str)
def test_convolution_of_images_adds_a_bias(shape: tuple[int, int, int, int, int]) -> None:
    images, weight, grad = image_conv.draw(shape, whole=False, dtype=torch.bfloat16)
    bias = layer_conv.draw_bias(len(weight))
    wanted = image_conv.expected(images, weight, grad)[0] + bias.double()[:, None, None]
    leaf = bias.cuda().requires_grad_()
    for relu in (None, Relu()):
        y = convolve_images(images.cuda(), weight.cuda(), bias=leaf, relu=relu)
        (gradient,) = torch.autograd.grad(y, leaf, grad.cuda())
        passed = grad.double() if relu is None else grad.double() * (y.detach().cpu() > 0)
        _assert_close([y, gradient], [wanted if relu is None else wanted.relu(), passed.sum((0, 2, 3))])


@pytest.mark.parametrize("shape", [*head.SHAPES, (1024, 512, 4, 4, 10), (131, 500, 5, 3, 20)], ids=str)
def test_linear_layer_of_the_mean_matches_torch_and_repeats(shape: tuple[int, int, int, int, int]) -> None:
    x, weight, bias, grad = head.draw(shape, torch.bfloat16)
    leaves = [tensor.detach().cuda().requires_grad_() for tensor in (x, weight, bias)]
    y = pooled_linear(*leaves)
    first, second = (torch.autograd.grad(y, leaves, grad.cuda(), retain_graph=True) for _ in range(2))
    _assert_close([y, *first], head.expected(x, weight, bias, grad))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _assert_close(actual, expected) -> None:
    errors = [formulas.relative_error(a.detach().cpu(), e) for a, e in zip(actual, expected, strict=True)]
    assert max(errors) < formulas.TOLERANCE[torch.bfloat16], errors
