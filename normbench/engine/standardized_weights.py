"""Weight standardization in a training step: the weights of all layers in one launch, their gradients in another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from normbench.engine.gradient_addresses import GradientAddresses, readable
from normbench.kernels.conv import GradientShares
from normbench.kernels.standardization import (
    MAX_FAN_IN,
    Filters,
    Standardization,
    standardize,
    standardize_backward,
)
from normbench.norms.weight_standardization import ScaledStandardizedConv2d, StandardizedConv2d


def standardized_weights(network: nn.Module, dtype: torch.dtype) -> list[StandardizedWeights]:
    """Return those of all layers of `network` that kernels can standardize: one object for each formula."""
    layers: dict[Standardization, dict[str, StandardizedConv2d]] = defaultdict(dict)
    for name, layer in network.named_modules():
        if _can_standardize(layer):
            layers[layer.standardization][name] = layer
    return [StandardizedWeights(of_one, formula, dtype) for formula, of_one in layers.items()]


def _can_standardize(layer: nn.Module) -> TypeGuard[StandardizedConv2d]:
    """Return whether kernels standardize the layer's weights; not those of subclasses, whose formula may be another."""
    if not isinstance(layer, StandardizedConv2d) or type(layer) not in (StandardizedConv2d, ScaledStandardizedConv2d):
        return False
    return layer.weight.requires_grad and layer.weight[0].numel() <= MAX_FAN_IN


class StandardizedWeights:
    """The weights that the convolutions of one formula compute with, and their way back to the layers' parameters.

    In each step: `compute`, a forward and a backward pass of the network with `leaves` in place of the buffers of those
    names, then `backward`, which leaves a gradient at every weight and gain.

    Args:
        layers: by their names; their parameters are float32 and stay where they are.
        standardization: the formula of them all.
        dtype: in which they convolve, float32 or bfloat16.
    """

    def __init__(
        self, layers: Mapping[str, StandardizedConv2d], standardization: Standardization, dtype: torch.dtype
    ) -> None:
        self._standardization = standardization
        self.facts = (standardization, dtype, max(layer.weight[0].numel() for layer in layers.values()))
        """All that decides which kernels are launched."""
        parameters = [(layer.weight, layer.gain) for layer in layers.values()]
        outputs = [torch.empty_like(weight, dtype=dtype, requires_grad=True) for weight, _ in parameters]
        self.leaves: dict[str, Tensor] = dict(zip((f"{name}.standardized" for name in layers), outputs, strict=True))
        """The standardized weights by the names of the buffers that they stand in for."""
        self._shares = [GradientShares() for _ in outputs]  # which the kernel sums, in place of a launch for each layer
        for output, shares in zip(outputs, self._shares, strict=True):
            output.gradient_shares = shares  # type: ignore[attr-defined]
        self._gradients = [
            (parameter, torch.empty_like(parameter))
            for pair in parameters
            for parameter in pair
            if parameter is not None
        ]
        gradient_of = dict(self._gradients)
        counts = [len(weight) for weight, _ in parameters]
        device = outputs[0].device
        self._addresses = GradientAddresses(counts, device)

        def addresses(tensors: Sequence[Tensor | None]) -> Tensor:
            of_layers = torch.tensor([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
            return of_layers.repeat_interleave(torch.tensor(counts)).to(device)

        fan_ins = [weight[0].numel() for weight, _ in parameters]
        places = [(index, f, count * f) for count, f in zip(counts, fan_ins, strict=True) for index in range(count)]
        self._filters = Filters(
            weights=addresses([weight for weight, _ in parameters]),
            outputs=addresses(outputs),
            dweights=addresses([gradient_of[weight] for weight, _ in parameters]),
            gains=addresses([gain for _, gain in parameters]),
            dgains=addresses([None if gain is None else gradient_of[gain] for _, gain in parameters]),
            places=torch.tensor(places, dtype=torch.int32, device=device),
            statistics=torch.empty((len(places), 3), device=device),
            max_fan_in=max(fan_ins),
            dtype=dtype,
        )

    def compute(self) -> None:
        """Write the standardized weights, and drop the gradients of those before."""
        for leaf, shares in zip(self.leaves.values(), self._shares, strict=True):
            leaf.grad = shares.tensor = None
        standardize(self._filters, self._standardization)

    def backward(self) -> None:
        """Give every weight and gain its gradient, in memory that is always the same."""
        gradients = [readable(leaf) for leaf in self.leaves.values()]  # copies live until the kernel is launched
        self._addresses.locate(gradients, [shares.tensor for shares in self._shares])
        self._launch_backward()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def launch_all(self) -> None:
        """Launch both kernels; for use in a `Compilation`."""
        standardize(self._filters, self._standardization)
        self._launch_backward()

    def _launch_backward(self) -> None:
        addresses = self._addresses
        standardize_backward(self._filters, addresses.tensor, addresses.num_shares, self._standardization)

    def finish_capture(self) -> None:
        """Make the graph whose capture has just ended ready to be replayed."""
        self._addresses.finish_capture()
