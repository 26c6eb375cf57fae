"""Compiling ahead: the kernels of training steps, found by a dry run in torch's own operations, compiled all at once.

Triton would compile kernels one after another, when each is first launched, and a network has dozens. A dry run of the
network on two images shows which inputs reach the layers that have kernels; each such layer's kernels are then launched
on CPU tensors inside a `Compilation`, which compiles what it is asked to launch and runs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.engine.batches import EVALUATION_BATCH_SIZE, normalize
from normbench.engine.device import autocast
from normbench.engine.step.base import TrainStep
from normbench.engine.step.fused import FusedStep
from normbench.kernels import conv, image_conv, max_pool, patch_gelu, pool_linear
from normbench.kernels.launch import Compilation, Launches
from normbench.kernels.operation import AnySpec, launch_all, unsupported_reason
from normbench.kernels.support import is_channels_last, switched_off, unsupported_device_reason
from normbench.layers.conv2d import Conv2d
from normbench.layers.max_pool2d import MaxPool2d
from normbench.layers.norm_act import FusedNormAct, TokenNorm, as_image, kernel_arguments, kernel_spec
from normbench.layers.pooled_linear import PooledLinear
from normbench.layers.precision import kernel_dtype
from normbench.layers.whitening import WhiteningGelu
from normbench.triton_code import compiler

_WITH_KERNELS = (FusedNormAct, TokenNorm, Conv2d, MaxPool2d, WhiteningGelu, PooledLinear)


def compile_for(steps: Iterable[TrainStep], *, load_libraries: bool = False, max_workers: int | None = None) -> None:
    """Compile the kernels of all `steps` at once, on `max_workers` or all processor cores, and wait for it.

    With `load_libraries`, meanwhile also load what torch needs for such steps and have cuDNN choose its algorithms: a
    second or two where libraries come from a cold disk. A step for which any of this fails compiles its own kernels
    when it is run, or says what is wrong.
    """
    first: TrainStep | None = None
    with Compilation(max_workers=max_workers) as compilation:
        for step in steps:
            with suppress(Exception):
                compilation.add(_launches_of(step))
                first = first or step
        if load_libraries and first is not None:
            with suppress(Exception):
                _run_without_kernels(first)


def compile_later(steps: Iterable[TrainStep]) -> None:
    """Have the kernels of `steps` compiled by the process that does so for this one, if there is one, and go on.

    A step that is prepared before its kernels are there waits for them alone.
    """
    if compiler.server() is None:
        return
    compilation = Compilation()  # and never waited for
    for step in steps:
        with suppress(Exception):
            compilation.add(_launches_of(step))


def compile_layers(layers: Iterable[nn.Module], images: Tensor) -> None:
    """Compile the kernels of `layers`, each on its own on `images`, ``(N, C, H, W)``, under the current autocast."""
    with Compilation() as compilation:
        for layer in layers:
            with suppress(Exception):
                compilation.add(dry_run(layer, images.clone()).launches())


@dataclass(frozen=True)
class DryRun:
    """A network's forward pass in torch's own operations: what reached the layers with kernels, and what came out."""

    images: Tensor
    inputs: Sequence[tuple[nn.Module, Tensor]]
    output: Tensor

    def launches(self, batch_sizes: Sequence[int] = ()) -> Launches:
        """Return functions that launch the layers' kernels on CPU tensors, forward and backward, without repetitions.

        Call it under the training's autocast. `batch_sizes` are those of the training; that of the images alone if
        there are none. Layers without a kernel have no launches.
        """
        launches: Launches = {}
        sizes = tuple(batch_sizes) or (len(self.images),)
        for module, x in self.inputs:
            if isinstance(module, FusedNormAct):
                _add_norm(launches, module[0], module.spec, x, sizes)
            elif isinstance(module, TokenNorm):
                _add_norm(launches, module, kernel_spec(module, "none"), as_image(x), sizes)
            elif isinstance(module, Conv2d):
                dtype = kernel_dtype(x, module.weight)
                # The kernel gives no gradient of its input, so it serves the images and no layer's output.
                if x is self.images and dtype is not None and module.has_kernel(x, dtype):
                    parameters = _like(module.weight, dtype), _like(module.bias, dtype)
                    _add(launches, _image_conv, x, sizes, *parameters, module.with_relu)
                elif dtype is not None and module.has_layer_kernel(x, module.weight, dtype):
                    parameters = _like(module.weight, dtype), _like(module.bias, dtype)
                    facts = (*parameters, module.stride[0], module.with_relu, module.after_relu)
                    _add(launches, conv.launch_all, x.to(dtype), sizes, *facts)
                    _add(launches, conv.launch_forward, x.to(dtype), (EVALUATION_BATCH_SIZE,), *facts)
            elif isinstance(module, MaxPool2d) and module.has_kernel(x):
                _add(launches, _max_pool, x, sizes)
            elif isinstance(module, WhiteningGelu):
                dtype = kernel_dtype(x, module.weight)
                if dtype is not None and module.has_kernel(x, dtype):
                    filters = torch.empty_like(module.weight.permute(0, 2, 3, 1), device="cpu").contiguous()
                    _add(launches, _patch_gelu, x, sizes, filters, _like(module.bias), dtype)
            elif isinstance(module, PooledLinear):
                dtype = kernel_dtype(x, module.weight)
                if dtype is not None and module.has_kernel(x, dtype):
                    _add(launches, _pooled_linear, x, sizes, *(_like(p, dtype) for p in (module.weight, module.bias)))
        return launches


def dry_run(model: nn.Module, images: Tensor, *, backward: bool = False) -> DryRun:
    """Run a copy of `model`, in the mode it is in, on `images`, ``(N, C, H, W)`` on its device, without our kernels.

    With `backward`, run the backward pass too.
    """
    inputs: list[tuple[nn.Module, Tensor]] = []
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, _WITH_KERNELS):
            module.register_forward_pre_hook(lambda layer, arguments: inputs.append((layer, arguments[0])))
    with torch.set_grad_enabled(backward), switched_off():
        output = copied(images)
        if backward:
            output.sum().backward()
    return DryRun(images, inputs, output.detach())


def _launches_of(step: TrainStep) -> Launches:
    """Return what launches the kernels of a training step; nothing where none of ours run."""
    settings = step.settings
    if settings.engine == "compile" or unsupported_device_reason(step.images.labels.device) is not None:
        return {}
    sizes = step.forward_sizes()
    with autocast(settings.device, settings.precision):
        run = _dry_run_on_few(step.model, _first_images(step, sizes[0]))
        launches = run.launches(sizes)
    return launches | _fused_launches(step, sizes, run.output) if isinstance(step, FusedStep) else launches


def _dry_run_on_few(model: nn.Module, images: Tensor) -> DryRun:
    """Run on two of `images`, which take next to no memory, or on all where a norm cannot do with less."""
    try:
        return dry_run(model, images[:2])
    except (ValueError, RuntimeError):
        return dry_run(model, images)


def _fused_launches(step: FusedStep, batch_sizes: Sequence[int], logits: Tensor) -> Launches:
    """Return what launches the kernels around the network, which gives such `logits`."""

    def batch_and_loss() -> None:
        for size in batch_sizes:
            _, labels = step.assemble(size, torch.device("cpu"))
            step.loss_gradient(logits.new_empty((size, *logits.shape[1:]), device="cpu"), labels)

    shape = step.images.images.shape[1:]
    facts = (shape, step.settings.augment, *logits.shape[1:], logits.dtype, *batch_sizes)
    return {
        ("batch and loss", *facts): batch_and_loss,
        ("update", step.optimizer.name, step.optimizer.has_slow_weights): step.optimizer.update,
        **{("standardize", *weights.facts): weights.launch_all for weights in step.standardized},
    }


def _run_without_kernels(step: TrainStep) -> None:
    """Run the model of `step` forward and backward, in torch's own operations, at each batch size."""
    with autocast(step.settings.device, step.settings.precision):
        for size in step.batch_sizes():
            dry_run(step.model, _first_images(step, size), backward=True)


def _first_images(step: TrainStep, count: int) -> Tensor:
    return normalize(step.images.images[:count])


def _add(
    launches: Launches, launch: Callable[..., object], x: Tensor, sizes: tuple[int, ...], *arguments: object
) -> None:
    """Add the launches of a layer that takes batches like `x`, of each size: together, as they share most kernels."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    batches = [torch.empty((size, *x.shape[1:]), dtype=x.dtype, device="cpu", memory_format=layout) for size in sizes]
    facts = [(a.shape, a.stride(), a.dtype) if isinstance(a, Tensor) else a for a in (*batches, *arguments)]

    def run() -> None:
        for batch in batches:
            launch(batch, *arguments)

    launches[launch.__name__, *facts] = run


def _add_norm(launches: Launches, layer: nn.Module, spec: AnySpec | None, x: Tensor, sizes: tuple[int, ...]) -> None:
    """Add the launches of a norm with its activation, if kernels compute it."""
    if spec is not None and unsupported_reason(x, spec) is None:
        _add(launches, _norm_act, x, sizes, spec, *_settings(layer))


def _like(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """Return an empty CPU tensor of the same form: no value is ever read from it."""
    return None if tensor is None else torch.empty_like(tensor, dtype=dtype or tensor.dtype, device="cpu")


def _norm_act(x: Tensor, spec: AnySpec, *settings: Any) -> None:
    """Launch the kernels of a norm with such arguments, the names and values of `kernels.norm_act`, in turn."""
    launch_all(x, spec, dict(zip(settings[::2], settings[1::2], strict=True)))


def _settings(layer: nn.Module) -> Iterator[Any]:
    """Return the arguments of `kernels.norm_act` for `layer`, each name followed by its value, without their data."""
    for name, value in kernel_arguments(layer).items():
        yield name
        empty = _like(value) if isinstance(value, Tensor) else None
        yield value if empty is None else empty.requires_grad_(value.requires_grad)


def _image_conv(images: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> None:
    image_conv.weight_gradient(image_conv.convolve(images, weight, bias=bias, relu=relu), images, weight)


def _pooled_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    y, means = pool_linear.forward(x, weight, bias)
    pool_linear.backward(y, means, weight, x.shape[2:], has_bias=bias is not None)


def _max_pool(x: Tensor) -> None:
    y, winners = max_pool.forward(x)
    max_pool.backward(y, winners, x.shape)


def _patch_gelu(images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    patch_gelu.backward(patch_gelu.forward(images, weight, bias, dtype), images, weight, bias)
