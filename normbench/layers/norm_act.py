"""Norm and activation in one kernel where the device has one, and the layers themselves everywhere else."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, cast

import torch
from torch import nn

from normbench import kernels
from normbench.kernels import AnySpec, MomentsSpec, NormActSpec
from normbench.kernels.spec import Activation


class FusableNorm(Protocol):
    """A norm that says which kernel computes it, beside being an `nn.Module`."""

    def kernel_spec(self, activation: Activation) -> AnySpec | None:
        """Return which kernel computes the layer and the ReLU after it, if any; None where no kernel does."""

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""


class Fusable(nn.Module):
    """A module that runs one kernel where there is one; `path` says what ran last: ``fused``, ``native: <reason>``."""

    path = "native: not run yet"


class FusedNormAct(Fusable, nn.Sequential):
    """A norm layer and the activation after it, if any: ``Sequential(layer, ReLU)``, with the same parameters and keys.

    `forward` runs the fused kernel where there is one and the layers where there is none.
    """

    def __init__(self, layer: nn.Module, activation: nn.ReLU | nn.GELU | None = None) -> None:
        super().__init__(*(layer,) if activation is None else (layer, activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized and activated `x`, ``(N, C, H, W)``."""
        reason = self.native_reason(x)
        self.path = "fused" if reason is None else f"native: {reason}"
        spec = None if reason is not None else self.spec
        if spec is not None:
            return kernels.norm_act(x, spec, **kernel_arguments(self[0]))
        for module in self:
            x = module(x)
        return x

    @property
    def spec(self) -> AnySpec | None:
        """The kernels' task, or None where no kernel computes this layer."""
        return kernel_spec(self[0], _name(self[1] if len(self) == 2 else None))

    def native_reason(self, x: torch.Tensor) -> str | None:
        """Return in a line why `x` takes the layers, or None where it takes the kernel."""
        if any(module._forward_hooks or module._forward_pre_hooks for module in self):
            return "a hook watches the layer"
        return native_reason(self[0], self.spec, x)


class TokenNorm(Fusable):
    """A norm of token sequences, ``(N, T, D)``, that runs the kernel of the image norm of the same formula.

    Subclasses have the two methods of `FusableNorm`, and `native` for where there is no such kernel.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`."""
        image, spec = as_image(x), cast("FusableNorm", self).kernel_spec("none")
        reason = native_reason(self, spec, image)
        self.path = "fused" if reason is None else f"native: {reason}"
        if reason is not None or spec is None:
            return self.native(x)
        return kernels.norm_act(image, spec, **kernel_arguments(self)).squeeze(-1).transpose(1, 2)

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`, by torch's own operations."""
        raise NotImplementedError


def as_image(x: torch.Tensor) -> torch.Tensor:
    """View sequences, ``(N, T, D)``, as images of T x 1 positions and D channels, adjacent in memory."""
    return x.transpose(1, 2).unsqueeze(-1)


def native_reason(layer: nn.Module, spec: AnySpec | None, x: torch.Tensor) -> str | None:
    """Return in a line why `x`, ``(N, C, H, W)``, takes torch's operations, or None where the kernel takes it."""
    if torch.compiler.is_compiling():
        return "torch.compile fuses the layers itself"
    if spec is None:
        return f"no fused kernel for {type(layer).__name__}"
    by_moments = isinstance(spec, MomentsSpec) and spec.differentiates_running
    frozen = kernel_arguments(layer).get("use_running", False) and not by_moments
    if frozen and torch.is_grad_enabled() and any(t.requires_grad for t in (x, *layer.parameters())):
        return "no fused gradient through running statistics"
    return kernels.unsupported_reason(x, spec)


def fuse(layer: nn.Module, activation: nn.ReLU | nn.GELU | None = None) -> nn.Module:
    """Return `layer` and `activation` as one module, which runs as one kernel where there is a kernel for them.

    Where the kernel of the layer has no GELU, that one follows by itself.
    """
    if kernel_spec(layer, _name(activation)) is not None:
        return FusedNormAct(layer, activation)
    if activation is None:
        return layer
    return nn.Sequential(fuse(layer) if isinstance(activation, nn.GELU) else layer, activation)


def _name(activation: nn.Module | None) -> Activation:
    return "none" if activation is None else "gelu" if isinstance(activation, nn.GELU) else "relu"


def kernel_spec(layer: nn.Module, activation: Activation) -> AnySpec | None:
    """Return which kernel computes `layer` and the activation after it, as the layer's class says; None without one.

    A subclass with a `forward` of its own computes something else, so that what its base says does not count.
    """
    for kind in type(layer).__mro__:
        if "kernel_spec" in vars(kind):
            spec = cast("FusableNorm", layer).kernel_spec(activation)
            return spec if activation != "gelu" or isinstance(spec, NormActSpec) else None  # others have no GELU
        if "forward" in vars(kind):
            return None
    return None


def kernel_arguments(layer: nn.Module) -> dict[str, Any]:
    """Return the arguments of `kernels.norm_act` beside input and spec for a norm that has a `kernel_spec`."""
    return cast("FusableNorm", layer).kernel_arguments()


def norm_paths(model: nn.Module) -> dict[str, str]:
    """Return for each fusable layer of `model`, by name, the path that its last forward took."""
    return {name: module.path for name, module in model.named_modules() if isinstance(module, Fusable)}


def describe_paths(model: nn.Module) -> str:
    """Say how the norms of `model` ran in its last forward.

    ``fused`` or ``native: <reason>``; where layers differ, each with its number of layers, the most frequent first.
    """
    counts = Counter(module.path for module in model.modules() if isinstance(module, Fusable))
    pairs = [module for module in model.modules() if isinstance(module, FusedNormAct)]
    inside, kinds = {id(module[0]) for module in pairs}, {type(module[0]) for module in pairs}
    for module in model.modules():  # of a kind that has a kernel, but in a form that has none
        if type(module) in kinds and id(module) not in inside:
            counts[f"native: no fused kernel for {type(module).__name__} without its activation"] += 1
    if len(counts) < 2:
        return next(iter(counts), "native: no fused kernel for this norm")
    return "; ".join(f"{path} ({count} layer{'s' if count > 1 else ''})" for path, count in counts.most_common())
