"""A network's first forward pass, in torch's own operations: whether it works, and which kernels it will want."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench import kernels
from normbench.kernels.launch import Jobs
from normbench.kernels.spec import NormActSpec
from normbench.kernels.support import is_channels_last, switched_off
from normbench.layers.conv2d import Conv2d
from normbench.layers.norm_act import FusedNormAct, parameters
from normbench.layers.pooled_linear import PooledLinear
from normbench.layers.precision import kernel_dtype


@dataclass(frozen=True)
class Rehearsal:
    """What reached the layers that have kernels, and what came out of the network."""

    images: Tensor
    inputs: Sequence[tuple[nn.Module, Tensor]]
    output: Tensor

    def kernel_jobs(self, batch_sizes: Sequence[int] = ()) -> Jobs:
        """Return what launches the kernels of a training's layers, on CPU tensors; for `launch.compile_all`.

        Call it under the training's autocast. `batch_sizes` are those of the training; that of the images alone if
        there are none. Layers that run natively have no job, equal ones have one.
        """
        jobs: Jobs = {}
        sizes = tuple(batch_sizes) or (len(self.images),)
        for module, x in self.inputs:
            if isinstance(module, FusedNormAct):
                spec = module.spec
                if spec is not None and kernels.unsupported_reason(x, spec) is None:
                    running = getattr(module[0], "running_mean", None) is not None
                    _add(jobs, _norm, x, sizes, spec, *(_like(p) for p in parameters(module[0])), running)
            elif isinstance(module, Conv2d):
                dtype = kernel_dtype(x, module.weight)
                # Of another layer's output it would have to give the gradient, which the kernel does not.
                if x is self.images and dtype is not None and module.has_kernel(x, dtype):
                    _add(jobs, _image_conv, x, sizes, _like(module.weight, dtype))
            elif isinstance(module, PooledLinear):
                dtype = kernel_dtype(x, module.weight)
                if dtype is not None and module.has_kernel(x, dtype):
                    _add(jobs, _pooled_linear, x, sizes, *(_like(p, dtype) for p in (module.weight, module.bias)))
        return jobs


def rehearse(model: nn.Module, images: Tensor, *, backward: bool = False) -> Rehearsal:
    """Run a copy of `model`, in the mode it is in, on `images`, ``(N, C, H, W)`` on its device, without our kernels.

    With `backward` there and back again: torch then has loaded what it needs, and cuDNN chosen its algorithms.
    """
    inputs: list[tuple[nn.Module, Tensor]] = []
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, FusedNormAct | Conv2d | PooledLinear):
            module.register_forward_pre_hook(lambda layer, arguments: inputs.append((layer, arguments[0])))
    with torch.set_grad_enabled(backward), switched_off():
        output = copied(images)
        if backward:
            output.sum().backward()
    return Rehearsal(images, inputs, output.detach())


def rehearse_on_few(model: nn.Module, images: Tensor) -> Rehearsal:
    """Rehearse on two of `images`, which take next to no memory, or on all where a norm cannot do with less."""
    try:
        return rehearse(model, images[:2])
    except (ValueError, RuntimeError):
        return rehearse(model, images)


def _add(jobs: Jobs, launch: Callable[..., None], x: Tensor, sizes: tuple[int, ...], *arguments: object) -> None:
    """Add the job of a layer that takes batches like `x` of each size; one job, as they have most kernels in common."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    batches = [torch.empty((size, *x.shape[1:]), dtype=x.dtype, device="cpu", memory_format=layout) for size in sizes]
    facts = [(a.shape, a.stride(), a.dtype) if isinstance(a, Tensor) else a for a in (*batches, *arguments)]

    def run() -> None:
        for batch in batches:
            launch(batch, *arguments)

    jobs[launch.__name__, *facts] = run


def _like(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    return None if tensor is None else torch.empty_like(tensor, dtype=dtype or tensor.dtype, device="cpu")


def _norm(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None,
    bias: Tensor | None,
    extra: Tensor | None,
    running: bool,
) -> None:
    from normbench.kernels.norm_activation import Parameters, launch_all

    launch_all(x, spec, Parameters(weight, bias, extra), running=running)


def _image_conv(images: Tensor, weight: Tensor) -> None:
    from normbench.kernels.image_conv import convolve, weight_gradient

    weight_gradient(convolve(images, weight), images, weight)


def _pooled_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    from normbench.kernels.pool_linear import backward, forward

    y, means = forward(x, weight, bias)
    backward(y, means, weight, x.shape[2:], has_bias=bias is not None)
