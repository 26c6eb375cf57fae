"""Two norms on the same tensor, side by side, to see whether they compute the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.inspection.measure import Shape, build_layer, uniform_input
from normbench.norms import NormFactory

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value, that rounding explains in float32 sums over thousands."""
NUM_SHOWN = 3


@dataclass(frozen=True)
class ComparedTensor:
    """One tensor that both layers have: its first values, and how far apart the two are at most."""

    quantity: str
    left: tuple[float, ...]
    right: tuple[float, ...]
    largest_difference: float
    largest_value: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference."""
        return self.largest_difference <= TOLERANCE * max(self.largest_value, 1e-30)


@dataclass(frozen=True)
class Agreement:
    """A comparison of two norms on one tensor of uniform numbers from [0, 1)."""

    left: str
    right: str
    shape: Shape
    compared: tuple[ComparedTensor, ...]
    only_left: tuple[str, ...]
    """Running statistics and parameters that the other does not have, or not in the same shape."""
    only_right: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether rounding explains every difference."""
        return all(tensor.agrees for tensor in self.compared)


def compare_norms(left: NormFactory, right: NormFactory, shape: Shape, *, seed: int = 0) -> Agreement:
    """Run one training step's forward and backward, then evaluation, in both layers.

    Raises:
        ConfigError: a layer cannot be built for this shape, or cannot normalize it.
    """
    traces = [_trace(factory, shape, seed) for factory in (left, right)]
    shared = [name for name in traces[0] if name in traces[1] and traces[0][name].shape == traces[1][name].shape]
    only_left, only_right = (tuple(name for name in trace if name not in shared) for trace in traces)
    compared = tuple(_compare(name, traces[0][name], traces[1][name]) for name in shared)
    return Agreement(left.name, right.name, shape, compared, only_left, only_right)


def _trace(factory: NormFactory, shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    """Return every tensor that one layer computes, by name."""
    layer = build_layer(factory, shape)
    x = uniform_input(shape, seed).requires_grad_()
    output_gradient = uniform_input(shape, seed + 1) - 0.5
    try:
        output = layer(x)
        output.backward(output_gradient)
        assert x.grad is not None
        trace = {"output, training": output, "input gradient": x.grad}
        trace |= {f"gradient of {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
        trace |= _running_statistics(layer)
        trace["output, evaluation"] = layer.eval()(x)
    except ValueError as error:
        raise ConfigError(f"{factory.name} on shape {shape}: {error}") from error
    return {name: tensor.detach().clone() for name, tensor in trace.items()}


def _running_statistics(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers with a value per channel, named without the part of the layer that holds them."""
    return {name.rpartition(".")[2]: buffer for name, buffer in layer.named_buffers() if buffer.ndim > 0}


def _compare(name: str, left: torch.Tensor, right: torch.Tensor) -> ComparedTensor:
    first_left, first_right = (tuple(tensor.flatten()[:NUM_SHOWN].tolist()) for tensor in (left, right))
    difference = (left.double() - right.double()).abs().max().item()
    return ComparedTensor(name, first_left, first_right, difference, right.abs().max().item())
