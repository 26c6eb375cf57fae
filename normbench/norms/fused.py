"""Norm and activation in one kernel where the device has one, and the layers themselves everywhere else."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import nn

from normbench import kernels
from normbench.kernels import NormActSpec
from normbench.kernels.spec import Activation
from normbench.norms.convolution import Conv2d
from normbench.norms.evonorm import EvoNormS
from normbench.norms.frn import FilterResponseNorm
from normbench.norms.group import GroupNorm, GroupRMSNorm
from normbench.norms.head import PooledLinear
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
        return NormActSpec(scope="sample", groups=groups, centered=centered, activation="gate", eps=layer.eps)
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


def compile_ahead(model: nn.Module, images: torch.Tensor, dtype: torch.dtype, *, max_workers: int | None = None) -> int:
    """Compile at once, on `max_workers` or all processor cores, the kernels for training `model` on `images`.

    Triton would otherwise compile them one after another in the first step. `dtype` is that of the activations
    (bfloat16 under autocast); `images`, ``(N, C, H, W)`` on the model's device, give shape and memory format only.
    Returns the number of layers compiled for; 0 where the layers run natively.
    """
    on_meta = copy.deepcopy(model).to("meta")
    batch = images.to("meta")
    inputs: list[tuple[nn.Module, torch.Tensor]] = []
    for module in on_meta.modules():
        if isinstance(module, FusedNormAct | Conv2d | PooledLinear):
            module.register_forward_pre_hook(lambda layer, arguments: inputs.append((layer, arguments[0])))
    with torch.no_grad():
        on_meta(batch)
    jobs: list[Callable[[], None]] = []
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.preserve_format  # which not every meta operation keeps
    for module, x in inputs:
        x_dtype = images.dtype if x is batch else dtype
        like_x = torch.zeros_like(x, dtype=x_dtype, device=images.device, memory_format=layout)
        if isinstance(module, Conv2d):
            if x is batch and module.has_kernel(like_x, dtype):
                weight = torch.zeros_like(module.weight, dtype=dtype, device=images.device)
                jobs.append(partial(_compile_conv, like_x, weight))
        elif isinstance(module, PooledLinear):
            if module.has_kernel(like_x, dtype):
                like = [torch.zeros_like(p, dtype=dtype, device=images.device) for p in module.parameters()]
                jobs.append(partial(_compile_head, like_x, *like))
        elif isinstance(module, FusedNormAct):
            spec = module.spec
            if spec is not None and kernels.unsupported_reason(like_x, spec) is None:
                jobs.append(partial(_compile_norm, module, spec, like_x))
    with ThreadPoolExecutor(max_workers or os.cpu_count()) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()
    return len(jobs)


def _compile_conv(images: torch.Tensor, weight: torch.Tensor) -> None:
    from normbench.kernels.image_conv import convolve, weight_gradient

    weight_gradient(convolve(images, weight), images, weight)


def _compile_head(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    from normbench.kernels.head import backward, forward

    y, means = forward(x, weight, bias)
    backward(y, means, weight, x.shape[2:], has_bias=bias is not None)


def _compile_norm(module: FusedNormAct, spec: NormActSpec, x: torch.Tensor) -> None:
    from normbench.kernels.functions import Parameters, compile_for

    layer = module[0]
    scratch = (None if p is None else torch.zeros_like(p, device=x.device) for p in parameters(layer))
    running = getattr(layer, "running_mean", None) is not None
    compile_for(x, spec, Parameters(*scratch), running=running)
