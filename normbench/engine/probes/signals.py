"""Activations, gradients and weights of every layer: what a norm does to signals on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normbench.engine.probes.moment import Moment
from normbench.layers.hooks import learning_rate_factors
from normbench.layers.sites import norm_sites
from normbench.runs.probe_files import Activations, NormSignals, SignalsRow, WeightSignals

_FLOOR = 1e-30
"""Keeps a cosine of an image whose activations are all 0 at 0."""


class SignalsProbe:
    """Properties of layers that Lubana, Dick & Tanaka 2021 (arXiv 2106.05956) compare norms by, on one training batch.

    Of what enters each norm, and of what leaves it and its activation: mean and standard deviation over all values, the
    share of zeros, and the share of dead channels (one value for all images and positions). Of what leaves, with X the
    matrix whose rows are the activations of the first `samples` images:

    - stable rank |X|_F^2 / |X|_2^2, Frobenius and spectral norm, not centered: 1 where all images look alike;
    - the mean over pairs of images of the cosine between their rows.

    Of norms with running statistics, before this batch enters them: the mean over channels of
    |mean - running mean| / sqrt(running variance) and of |ln(variance / running variance)|, variances unbiased.

    Of each weight of two or more dimensions outside the norms: its norm |w|, that of its gradient, and the effective
    learning rate, rate / |w|^2, by which a weight that a norm makes scale-invariant turns (van Laarhoven 2017, arXiv
    1706.05350). That is of gradient descent; Adam's steps do not shrink with the gradient.
    """

    name = "signals"

    def __init__(self, every: int, samples: int) -> None:
        self.every = every
        self._samples = samples

    def measure(self, moment: Moment) -> SignalsRow:
        """Return the numbers of every layer: one forward and one backward pass."""
        sites = [_Site(name, self._samples) for name in norm_sites(moment.model)]
        for site, module in zip(sites, norm_sites(moment.model).values(), strict=True):
            site.watch(module)
        weights = _weights(moment)
        _, gradient = moment.value_and_gradient([p.detach() for p in moment.parameters.values()])
        gradients = dict(zip(moment.parameters, gradient, strict=True))
        norms = [norm for name, w in weights.items() for norm in (w.norm(), gradients[name].norm())]
        numbers = _to_host([*norms, *(value for site in sites for value in site.values)])
        factors = learning_rate_factors(moment.model)
        pairs = list(zip(numbers[: len(norms) : 2], numbers[1 : len(norms) : 2], strict=True))
        rest = iter(numbers[len(norms) :])
        return SignalsRow(
            step=moment.step,
            norms=tuple(site.row([next(rest) for _ in site.values]) for site in sites if site.values),
            weights=tuple(
                _weight_row(name, float(w), float(g), moment.learning_rate * factors.get(name, 1.0))
                for name, (w, g) in zip(weights, pairs, strict=True)
            ),
        )


def _weights(moment: Moment) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers: parameters of two or more dimensions outside the norms."""
    inside = {id(p) for site in norm_sites(moment.model).values() for p in site.parameters()}
    return {name: p.detach() for name, p in moment.parameters.items() if p.ndim >= 2 and id(p) not in inside}


def _weight_row(name: str, weight_norm: float, gradient_norm: float, rate: float) -> WeightSignals:
    effective = rate / weight_norm**2 if weight_norm else float("inf")
    return WeightSignals(
        name=name, weight_norm=weight_norm, gradient_norm=gradient_norm, effective_learning_rate=effective
    )


@dataclass
class _Site:
    """What hooks see at the place of one norm."""

    name: str
    samples: int
    values: list[Tensor] = field(default_factory=list)
    """In this order: eight numbers, the Gram matrix, and two numbers of a norm with running statistics."""
    _gaps: list[Tensor] = field(default_factory=list)

    def watch(self, module: nn.Module) -> None:
        """Have the next forward pass of `module` fill `values`."""
        module.register_forward_hook(self._see)
        for layer in module.modules():
            if isinstance(getattr(layer, "running_mean", None), Tensor):
                layer.register_forward_pre_hook(partial(_see_gaps, self._gaps))

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y = inputs[0].detach(), output.detach()
        rows = y[: self.samples].flatten(1).float()
        self.values[:] = [*_moments(x), *_moments(y), rows @ rows.T, *self._gaps]

    def row(self, numbers: Sequence[Any]) -> NormSignals:
        """Return the numbers, read back, as the row of a record."""
        before, after, gram = numbers[:4], numbers[4:8], numbers[8]
        mean_gap, variance_gap = map(float, numbers[9:11]) if len(numbers) > 9 else (None, None)
        names = tuple(Activations.model_fields)
        return NormSignals(
            name=self.name,
            before=Activations(**dict(zip(names, map(float, before), strict=True))),
            after=Activations(**dict(zip(names, map(float, after), strict=True))),
            stable_rank=stable_rank(gram),
            similarity=mean_cosine(gram),
            mean_gap=mean_gap,
            variance_gap=variance_gap,
        )


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, standard deviation, share of zeros and of dead channels of activations."""
    x = x.float()
    variance, mean = torch.var_mean(x, correction=0)
    axes = (0, 2, 3) if x.ndim == 4 else (0, 1)  # of (N, T, D), a channel is a feature
    dead = x.amax(axes) == x.amin(axes)
    return mean, variance.sqrt(), (x == 0).float().mean(), dead.float().mean()


def _see_gaps(gaps: list[Tensor], layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Append how far the batch's statistics are from the running ones, where the input has the layer's channels."""
    x, mean, variance = inputs[0].detach().float(), layer.running_mean, getattr(layer, "running_var", None)
    if gaps or x.ndim != 4 or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return
    if mean.shape != (x.shape[1],) or variance.shape != mean.shape or x.numel() == x.shape[1]:
        return
    batch_variance, batch_mean = torch.var_mean(x, dim=(0, 2, 3), correction=1)
    gaps.append(((batch_mean - mean).abs() / variance.sqrt()).mean())
    gaps.append((batch_variance / variance).log().abs().mean())


def stable_rank(gram: Tensor) -> float:
    """Return |X|_F^2 / |X|_2^2 of a matrix X from its Gram matrix X X', float64 on the CPU; NaN where X is 0."""
    if not gram.isfinite().all():
        return float("nan")
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    return float(gram.trace()) / largest if largest > 0 else float("nan")


def mean_cosine(gram: Tensor) -> float:
    """Return the mean cosine over pairs of rows of a matrix from its Gram matrix; NaN for fewer than two rows."""
    count = len(gram)
    if count < 2:
        return float("nan")
    lengths = gram.diagonal().sqrt().clamp_min(_FLOOR)
    cosines = gram / lengths[:, None] / lengths[None, :]
    return float(cosines.sum() - cosines.trace()) / (count * (count - 1))


def _to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return float64 copies on the CPU, for which the device is waited for once."""
    if not tensors:
        return []
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors]).cpu().double()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
