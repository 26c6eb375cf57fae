"""Statistics and gradients of BN over a whole batch that passes through the network in parts.

With the means m and variances v of all BN layers as variables of their own, a part's loss is a function of weights, m
and v; and m and v are sums over the parts of what each contributes. So the gradient of the whole batch's loss is that
of ``loss + sum over layers of <dL/dm, contribution to m> + <dL/dv, contribution to v>``, part by part, with m and v
held fixed. The statistics are found layer by layer from the first on, their gradients from the last back: with L layers
each part passes through the network L times up to a layer, L times forth and back, and once more for the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.layers.precision import like_input, widen
from normbench.norms.base import bessel, per_channel, update_average

_AXES = (0, 2, 3)


@dataclass(frozen=True)
class Part:
    """A part of a batch."""

    run: Callable[[], Tensor]
    """Runs it through the network and returns its mean loss times `share`."""
    share: float
    """Its images as a share of the batch's."""


class _Reached(Exception):
    """Ends a pass at the first layer whose statistics are not known."""

    def __init__(self, layer: nn.BatchNorm2d, x: Tensor) -> None:
        super().__init__()
        self.layer, self.x = layer, x


class SynchronizedStatistics:
    """The statistics that the BN layers of `model` take of one batch, and the gradients of its loss by them."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._found: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}
        self._gradients: dict[nn.BatchNorm2d, tuple[Tensor, ...]] = {}
        self._inputs: dict[nn.BatchNorm2d, Tensor] = {}

    @contextmanager
    def over(self, parts: Sequence[Part]) -> Iterator[None]:
        """Find the statistics of the batch of these parts; the layers use them within the block.

        At its end their running averages have moved once, as by the whole batch.
        """
        handles = [layer.register_forward_hook(self._normalize) for layer in self._layers]  # kernels step aside
        for layer in self._layers:
            layer.eval()  # so that no part moves the running averages
        self._found, self._gradients = {}, {}
        try:
            num_values = self._find_statistics(parts)
            self._find_gradients(parts)
            yield
            self._update_running(num_values)
        finally:
            for layer, handle in zip(self._layers, handles, strict=True):
                layer.train()
                handle.remove()

    def total(self, loss: Tensor, share: float) -> Tensor:
        """Return `loss`, of the part that has just passed, with what the part contributes by the statistics."""
        for layer, (by_mean, by_variance) in self._gradients.items():
            x, mean = widen(self._inputs[layer]), self._found[layer][0].detach()
            squares = (x - per_channel(mean)).square()
            loss = loss + share * ((by_mean * x.mean(_AXES)).sum() + (by_variance * squares.mean(_AXES)).sum())
        return loss

    def _normalize(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
        """Return what the layer gives with the batch's statistics, in place of its output."""
        (x,) = inputs
        if layer not in self._found:
            raise _Reached(layer, x)
        self._inputs[layer] = x
        mean, variance = self._found[layer]
        y = (widen(x) - per_channel(mean)) * per_channel(torch.rsqrt(variance + layer.eps))
        return like_input(y if layer.weight is None else y * per_channel(layer.weight) + per_channel(layer.bias), x)

    @torch.no_grad()
    def _find_statistics(self, parts: Sequence[Part]) -> dict[nn.BatchNorm2d, int]:
        """Find mean and biased variance of each layer, in the order in which they run; return of how many values."""
        num_values: dict[nn.BatchNorm2d, int] = {}
        while reached := [where for part in parts if (where := _run_to_next(part)) is not None]:
            layer = reached[0].layer
            moments = [torch.var_mean(widen(where.x), _AXES, correction=0) for where in reached]
            shares = [part.share for part in parts]
            mean = sum(share * part_mean for share, (_, part_mean) in zip(shares, moments, strict=True))
            assert isinstance(mean, Tensor)
            variance = sum(
                share * (part_variance + (part_mean - mean).square())
                for share, (part_variance, part_mean) in zip(shares, moments, strict=True)
            )
            assert isinstance(variance, Tensor)
            self._found[layer] = mean, variance
            num_values[layer] = sum(where.x.numel() // len(mean) for where in reached)
        return num_values

    def _find_gradients(self, parts: Sequence[Part]) -> None:
        """Find the gradients of the batch's loss by the statistics of each layer, from the last back."""
        for layer in reversed(list(self._found)):
            statistics = self._found[layer] = tuple(each.detach().requires_grad_() for each in self._found[layer])  # type: ignore[assignment]
            sums = [torch.zeros_like(each) for each in statistics]
            for part in parts:
                gradients = torch.autograd.grad(self.total(part.run(), part.share), statistics)
                sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
            self._found[layer] = statistics[0].detach(), statistics[1].detach()
            self._gradients[layer] = tuple(sums)

    @torch.no_grad()
    def _update_running(self, num_values: dict[nn.BatchNorm2d, int]) -> None:
        for layer, (mean, variance) in self._found.items():
            if layer.running_mean is None or layer.running_var is None or layer.momentum is None:
                continue
            update_average(layer.running_mean, mean, layer.momentum)
            update_average(layer.running_var, variance * bessel(num_values[layer]), layer.momentum)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += 1


def _run_to_next(part: Part) -> _Reached | None:
    """Run a part up to the first layer whose statistics are not known; None where all are."""
    try:
        part.run()
    except _Reached as reached:
        return reached
    return None
