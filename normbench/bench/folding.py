"""Folding norms into the convolutions before them, for use: what is affine per channel needs no layer of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.layers.conv2d import Conv2d
from normbench.layers.norm_act import FusedNormAct

_TOLERANCE = 1e-4
"""Largest difference of the logits, relative to the largest of them: rounding in float32 over some layers."""


@dataclass(frozen=True)
class Folded:
    """A network with its norms folded, and how far rounding moved its output."""

    model: nn.Module
    num_layers: int
    difference: float
    """The largest difference of the logits, as a share of the largest of them."""


@torch.no_grad()
def affine_of(layer: nn.Module, num_channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift, float64 ``(C,)``, if in evaluation `layer` is ``y = scale * x + shift`` per channel.

    Found by what it does to zeros and ones, and believed if it does the same to random numbers; else None. So it needs
    to know no norm, and finds that of a user's own.
    """
    tried = copy.deepcopy(layer).double().cpu().eval()
    shape = (2, num_channels, *size)
    try:
        shift = tried(torch.zeros(shape, dtype=torch.float64))
        scale = tried(torch.ones(shape, dtype=torch.float64)) - shift
        x = 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
        y = tried(x)
    except (RuntimeError, ValueError, TypeError):
        return None
    if y.shape != x.shape or not torch.allclose(y, scale * x + shift, rtol=1e-6, atol=1e-6):
        return None
    is_constant = all(torch.allclose(each, each[:1, :, :1, :1].expand_as(each), atol=1e-9) for each in (scale, shift))
    return (scale[0, :, 0, 0], shift[0, :, 0, 0]) if is_constant else None


@torch.no_grad()
def fold(model: nn.Module, images: Tensor) -> Folded | None:
    """Return a copy of `model`, on the CPU in float32, with every norm that is possible folded into its convolution.

    Which norm follows which convolution shows while `images`, ``(N, C, H, W)``, pass. None where nothing can be folded,
    or where the network uses a convolution's output elsewhere too, so that the result would be another.
    """
    plain = copy.deepcopy(model).float().cpu().eval()
    folded = copy.deepcopy(plain)
    images = images.float().cpu()
    num_layers = 0
    for conv, norm, x in _pairs(folded, images):
        layer = norm[0] if isinstance(norm, FusedNormAct | nn.Sequential) else norm
        affine = None if isinstance(layer, nn.Identity) else affine_of(layer, x.shape[1], (x.shape[2], x.shape[3]))
        if affine is None:
            continue
        _replace(folded, conv, _with_affine(conv, *affine))
        rest = list(norm[1:]) if isinstance(norm, FusedNormAct | nn.Sequential) else []
        # As a network without norms has it, whose convolutions run a ReLU that follows in their kernels.
        _replace(folded, norm, nn.Sequential(nn.Identity(), *rest) if rest else nn.Identity())
        num_layers += 1
    if num_layers == 0:
        return None
    expected, found = plain(images), folded(images)
    difference = float((found - expected).abs().max() / expected.abs().max())
    return Folded(folded, num_layers, difference) if difference < _TOLERANCE else None


def _pairs(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.Module, Tensor]]:
    """Return each convolution with the module that takes its output first, and that output."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.Conv2d, tuple[nn.Module, Tensor]] = {}

    def after(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module) in (nn.Conv2d, Conv2d):  # another kind does something to its weights
            outputs[id(output)] = module, output  # type: ignore[assignment]

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and id(inputs[0]) in outputs:
            conv, x = outputs[id(inputs[0])]
            pairs.setdefault(conv, (module, x))

    modules = [module for module in model.modules() if module is not model]
    handles = [module.register_forward_hook(after) for module in modules]
    handles += [module.register_forward_pre_hook(before) for module in modules]
    model(images)
    for handle in handles:
        handle.remove()
    return [(conv, module, x) for conv, (module, x) in pairs.items()]


def _with_affine(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """Return a convolution that does what `conv` and then the affine map do."""
    found: Conv2d = nn.utils.skip_init(
        Conv2d, conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride,
        padding=conv.padding, dilation=conv.dilation, groups=conv.groups, padding_mode=conv.padding_mode,
    )  # fmt: skip
    bias = 0 if conv.bias is None else conv.bias.double()
    found.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    assert found.bias is not None
    found.bias.copy_(bias * scale + shift)
    return found


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
                return
