"""Convolutions one after the other, each with its norm and activation: what their kernels can do for each other."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from normbench.kernels import NormActSpec
from normbench.kernels.conv import Relu
from normbench.layers.conv2d import Conv2d
from normbench.layers.norm_act import FusedNormAct


class ConvStack(nn.Sequential):
    """``Sequential(conv, norm_act, conv, norm_act, ...)``, with the same parameters, keys and results.

    Without a norm, a ReLU runs inside the kernel of the convolution before it, and its gradient inside that of the
    convolution after it, where both have kernels and no hook watches the layers. A norm over the batch gets the
    statistics of the convolution's tiles.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        after_relu = False
        for conv, norm_act in self._pairs():
            if isinstance(conv, Conv2d):
                conv.with_relu, conv.after_relu = _is_relu(norm_act), after_relu
                conv.with_statistics = _is_over_batch(norm_act)
                after_relu = conv.with_relu

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last layer, ``(N, C, H, W)``."""
        relu: Relu | None = None
        for conv, norm_act in self._pairs():
            fused = None
            if type(conv) is Conv2d and _is_relu(norm_act) and not _is_watched(conv, *norm_act.modules()):
                fused = conv.relu_forward(x, relu)
            x, relu = fused if fused is not None else (norm_act(conv(x)), None)
        return x

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        layers = list(self)
        return zip(layers[::2], layers[1::2], strict=True)


def _is_relu(norm_act: nn.Module) -> bool:
    """Return whether a norm with its activation is a ReLU and nothing else."""
    return type(norm_act) is nn.Sequential and [type(layer) for layer in norm_act] == [nn.Identity, nn.ReLU]


def _is_over_batch(norm_act: nn.Module) -> bool:
    """Return whether a kernel normalizes over the batch, each channel by itself."""
    spec = norm_act.spec if isinstance(norm_act, FusedNormAct) else None
    return isinstance(spec, NormActSpec) and spec.scope == "batch" and spec.centered


def _is_watched(*layers: nn.Module) -> bool:
    return any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in layers)
