"""Norm and activation in one kernel where the device has one, and the layers themselves everywhere else."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from normbench import kernels
from normbench.kernels import NormActSpec
from normbench.kernels.spec import Activation
from normbench.norms.evonorm import EvoNormS
from normbench.norms.filter_response import FilterResponseNorm
from normbench.norms.group import GroupNorm, GroupRMSNorm
from normbench.norms.layer import LayerNorm2d, RMSNorm2d


class FusedNormAct(nn.Sequential):
    """A norm layer and the ReLU after it, if any: ``Sequential(layer, ReLU)``, with the same parameters and keys.

    `forward` runs the fused kernel where there is one and the layers where there is none; `path` says which ran last,
    ``"fused"`` or ``"native: <reason>"``.
    """

    def __init__(self, layer: nn.Module, activation: nn.ReLU | None = None) -> None:
        super().__init__(*(layer,) if activation is None else (layer, activation))
        self.path = "native: not run yet"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized and activated `x`, ``(N, C, H, W)``."""
        reason = self.native_reason(x)
        self.path = "fused" if reason is None else f"native: {reason}"
        layer, spec = self[0], self.spec
        if reason is not None or spec is None:
            for module in self:
                x = module(x)
            return x
        weight, bias, extra = parameters(layer)
        if not isinstance(layer, nn.BatchNorm2d):
            return kernels.norm_act(x, spec, weight, bias, extra)
        return kernels.norm_act(
            x,
            spec,
            weight,
            bias,
            running_mean=layer.running_mean,
            running_var=layer.running_var,
            num_batches_tracked=layer.num_batches_tracked,
            momentum=layer.momentum or 0.0,
            use_running=not layer.training and layer.track_running_stats,
        )

    @property
    def spec(self) -> NormActSpec | None:
        """What the kernels are asked for, or None where no kernel computes this layer."""
        return fused_spec(self[0], relu=len(self) == 2)

    def native_reason(self, x: torch.Tensor) -> str | None:
        """Return in a line why `x` takes the layers, or None where it takes the kernel."""
        layer, spec = self[0], self.spec
        if spec is None:
            return f"no fused kernel for {type(layer).__name__}"
        if torch.compiler.is_compiling():
            return "torch.compile fuses the layers itself"
        if any(module._forward_hooks or module._forward_pre_hooks for module in self):
            return "a hook watches the layer"
        frozen = isinstance(layer, nn.BatchNorm2d) and not layer.training and layer.track_running_stats
        if frozen and torch.is_grad_enabled() and any(t.requires_grad for t in (x, *layer.parameters())):
            return "no fused gradient through running statistics"
        return kernels.unsupported_reason(x, spec)


def fuse(layer: nn.Module, activation: nn.ReLU | None = None) -> nn.Module:
    """Return `layer` and `activation` as one module, which runs as one kernel where there is a kernel for them."""
    if fused_spec(layer, relu=activation is not None) is not None:
        return FusedNormAct(layer, activation)
    return layer if activation is None else nn.Sequential(layer, activation)


def fused_spec(layer: nn.Module, *, relu: bool) -> NormActSpec | None:
    """Return what kernel computes `layer`, followed by ReLU where `relu`, or None. Subclasses are other layers."""
    after: Activation = "relu" if relu else "none"
    kind = type(layer)
    if kind is nn.BatchNorm2d and isinstance(layer, nn.BatchNorm2d) and layer.momentum is not None:
        return NormActSpec(scope="batch", activation=after, eps=layer.eps)
    if kind is GroupNorm and isinstance(layer, GroupNorm):
        return NormActSpec(scope="sample", groups=layer.num_groups, activation=after, eps=layer.eps)
    if kind is GroupRMSNorm and isinstance(layer, GroupRMSNorm):
        return NormActSpec(scope="sample", groups=layer.num_groups, centered=False, activation=after, eps=layer.eps)
    if kind is LayerNorm2d and isinstance(layer, LayerNorm2d):
        return NormActSpec(scope="position", activation=after, eps=layer.eps)
    if kind is RMSNorm2d and isinstance(layer, RMSNorm2d):
        return NormActSpec(scope="position", centered=False, activation=after, eps=layer.eps)
    if relu:
        return None
    if kind is FilterResponseNorm and isinstance(layer, FilterResponseNorm) and layer.learned_eps is None:
        threshold: Activation = "none" if layer.tau is None else "tlu"
        groups = layer.num_channels
        return NormActSpec(scope="sample", groups=groups, centered=False, activation=threshold, eps=layer.eps)
    if kind is EvoNormS and isinstance(layer, EvoNormS) and layer.activation:
        groups, centered = layer.num_groups, layer.version != 2
        return NormActSpec(scope="sample", groups=groups, centered=centered, activation="swish", eps=layer.eps)
    return None


def parameters(layer: nn.Module) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Return weight, bias and, of a norm that contains its activation, tau or v1."""
    third = {FilterResponseNorm: "tau", EvoNormS: "v1"}.get(type(layer), "")
    return getattr(layer, "weight", None), getattr(layer, "bias", None), getattr(layer, third, None)


def norm_paths(model: nn.Module) -> dict[str, str]:
    """Return for each fusable layer of `model`, by name, the path that its last forward took."""
    return {name: module.path for name, module in model.named_modules() if isinstance(module, FusedNormAct)}


def describe_paths(model: nn.Module) -> str:
    """Say how the norms of `model` ran in its last forward.

    ``fused`` or ``native: <reason>``; where layers differ, each with its number of layers, the most frequent first.
    """
    fusable = [module for module in model.modules() if isinstance(module, FusedNormAct)]
    inside, kinds = {id(module[0]) for module in fusable}, {type(module[0]) for module in fusable}
    counts = Counter(module.path for module in fusable)
    for module in model.modules():  # of a kind that has a kernel, but in a form that has none
        if type(module) in kinds and id(module) not in inside:
            counts[f"native: no fused kernel for {type(module).__name__} without its activation"] += 1
    if len(counts) < 2:
        return next(iter(counts), "native: no fused kernel for this norm")
    return "; ".join(f"{path} ({count} layer{'s' if count > 1 else ''})" for path, count in counts.most_common())
