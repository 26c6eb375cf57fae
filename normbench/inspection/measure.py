"""One layer on one tensor: statistics of its output, parameters, state, and what autograd keeps for backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.norms import NormFactory
from normbench.norms.entry import UNKNOWN

Shape = tuple[int, int, int, int]
EVERYTHING = "all values"


@dataclass(frozen=True)
class Range:
    """The lowest and highest of several values."""

    low: float
    high: float


@dataclass(frozen=True)
class Statistics:
    """The moments of a tensor over sets of `num_values` values each; ranges over all sets."""

    axes: str
    """Axes that each set runs over, ``"C/4, H, W"``."""
    num_values: int
    mean: Range
    variance: Range
    """The biased variance, divided by `num_values`."""
    unbiased_variance: Range | None
    """The variance divided by ``num_values - 1``; None for a single value."""
    mean_square: Range


@dataclass(frozen=True)
class Evaluation:
    """Running statistics and output of a layer in evaluation mode, after one training batch."""

    state: Mapping[str, Range]
    """Running statistics by name, their ranges over channels."""
    output: Statistics


@dataclass(frozen=True)
class Inspection:
    """One layer on one tensor of uniform numbers from [0, 1)."""

    norm: str
    full_name: str
    options: Mapping[str, object]
    shape: Shape
    replaces_activation: bool
    output: tuple[Statistics, ...]
    """Moments in training: one entry a statistic of the norm, or one over everything for a norm without statistics."""
    parameters: Mapping[str, tuple[int, ...]]
    """Shapes of the parameters by name."""
    state: Mapping[str, tuple[int, ...]]
    """Shapes of the buffers by name."""
    input_bytes: int
    kept_bytes: int
    """Bytes that autograd keeps for backward: distinct storages, the input counted, parameters and buffers not."""
    evaluation: Evaluation | None
    """The layer in evaluation mode; None where that does not differ from training."""

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers."""
        return sum(torch.Size(shape).numel() for shape in self.parameters.values())


def uniform_input(shape: Shape, seed: int) -> torch.Tensor:
    """Return numbers drawn uniformly from [0, 1), ``(N, C, H, W)``."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def build_layer(factory: NormFactory, shape: Shape) -> nn.Module:
    """Build the layer for ``(N, C, H, W)`` in training mode."""
    return factory(shape[1], size=shape[2:]).train()


def inspect_norm(factory: NormFactory, shape: Shape, *, seed: int = 0) -> Inspection:
    """Build the layer that `factory` makes and measure it on `uniform_input`.

    Raises:
        ConfigError: the layer cannot be built for this shape, or cannot normalize it.
    """
    layer = build_layer(factory, shape)
    x = uniform_input(shape, seed).requires_grad_()
    may_differ = factory.norm.train_eval_differ or (factory.norm.axes == UNKNOWN and any(True for _ in layer.buffers()))
    try:
        output, kept_bytes = forward_counting_kept_bytes(layer, x)
        evaluation = _evaluate(layer, x) if may_differ else None
    except ValueError as error:
        raise ConfigError(f"{factory.name} on shape {shape}: {error}") from error
    partitions = [partition(axes, shape, layer) for axes in factory.norm.axis_sets] or [(EVERYTHING, shape)]
    return Inspection(
        norm=factory.name,
        full_name=factory.norm.full_name,
        options=dict(factory.options),
        shape=shape,
        replaces_activation=factory.replaces_activation,
        output=tuple(statistics(output, axes, sizes) for axes, sizes in partitions),
        parameters={name: tuple(parameter.shape) for name, parameter in layer.named_parameters()},
        state={name: tuple(buffer.shape) for name, buffer in layer.named_buffers()},
        input_bytes=x.nbytes,
        kept_bytes=kept_bytes,
        evaluation=evaluation,
    )


def partition(axes: tuple[str, ...], shape: Shape, layer: nn.Module) -> tuple[str, Shape]:
    """Return what a set that shares a statistic runs over, in words, and how far it reaches along N, C, H and W.

    `axes` is one of `Norm.axis_sets`; numbers of groups and chunks are those of the built layer. A statistic whose sets
    overlap (`lrn`) has no such sets: then everything is one.
    """
    num_samples, num_channels, *_ = shape
    num_groups, chunk = _attribute(layer, "num_groups"), _attribute(layer, "norm_batch_size")
    sizes, words = [1, 1, 1, 1], []
    for axis in axes:
        match axis.split("/"):
            case ["N", _] if chunk:
                sizes[0] = min(chunk, num_samples)
                words.append(f"N/{-(-num_samples // chunk)}")
            case ["C", _] if num_groups:
                sizes[1] = num_channels // num_groups
                words.append(f"C/{num_groups}")
            case [whole]:
                sizes["NCHW".index(whole)] = shape["NCHW".index(whole)]
                words.append(whole)
            case _:
                return EVERYTHING, shape
    return ", ".join(words), (sizes[0], sizes[1], sizes[2], sizes[3])


def statistics(x: torch.Tensor, axes: str, sizes: Shape) -> Statistics:
    """Return the moments of `x` over each block of `sizes` along (N, C, H, W), computed in float64.

    `axes` says it in words. Samples beyond the last whole block are left out.
    """
    x = x.detach().double()
    x = x[: len(x) // sizes[0] * sizes[0]]
    blocks = x.reshape([count for length, size in zip(x.shape, sizes, strict=True) for count in (length // size, size)])
    within = (1, 3, 5, 7)
    num_values = torch.Size(sizes).numel()
    variance = blocks.var(within, correction=0)
    return Statistics(
        axes=axes,
        num_values=num_values,
        mean=_range(blocks.mean(within)),
        variance=_range(variance),
        unbiased_variance=_range(variance * (num_values / (num_values - 1))) if num_values > 1 else None,
        mean_square=_range(blocks.square().mean(within)),
    )


def forward_counting_kept_bytes(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Run the layer; return its output and the bytes of the distinct storages that autograd saved meanwhile."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, torch.Tensor] = {}  # holding the tensors keeps their addresses from being used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    unpack: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
    with torch.autograd.graph.saved_tensors_hooks(keep, unpack):
        output: torch.Tensor = layer(x)
    return output, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@torch.no_grad()
def _evaluate(layer: nn.Module, x: torch.Tensor) -> Evaluation:
    """Measure evaluation mode; the layer has seen `x` once in training mode."""
    layer.eval()
    output = layer(x)
    layer.train()
    state = {name: _range(buffer) for name, buffer in layer.named_buffers() if buffer.ndim > 0}
    samples, _, height, width = x.shape
    return Evaluation(state, statistics(output, "N, H, W", (samples, 1, height, width)))


def _attribute(layer: nn.Module, name: str) -> int | None:
    """Return an integer attribute of the layer or of one of its parts."""
    return next((getattr(module, name) for module in layer.modules() if hasattr(module, name)), None)


def _range(values: torch.Tensor) -> Range:
    return Range(values.min().item(), values.max().item())
