"""The parts that residual nets share: He initialisation, and the two starts without normalization.

Fixup (Zhang, Dauphin & Ma 2019, arXiv 1901.09321) and SkipInit (De & Smith 2020, arXiv 2002.10444) belong to a net, not
to a layer, so a norm factory only says which is wanted (`NormFactory.residual_init`) and the nets build it from the
parts here. Under any other norm these parts add nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.layers.conv2d import Conv2d
from normbench.layers.hooks import TrainingHooks
from normbench.norms import NormFactory, NormLike, as_factory

FIXUP_RATE = 0.1  # Fixup's scalars learn at a tenth of the learning rate, as in its authors' CIFAR code


class ScalarBias(TrainingHooks):
    """``x + bias`` with one learned number, 0 at first: Fixup's."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x + bias``, in the dtype of x."""
        return x + self.bias

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Slow the bias down."""
        return {"bias": FIXUP_RATE}


class ScalarScale(TrainingHooks):
    """``x * scale`` with one learned number, whose learning rate is multiplied by `rate`."""

    def __init__(self, initial: float, *, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.scale = nn.Parameter(torch.full((), initial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x * scale``, in the dtype of x."""
        return x * self.scale

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Multiply the rate of the scale by `rate`."""
        return {"scale": self.rate}


def usable_factory(model: str, norm: NormLike, *, reason_against: dict[str, str] | None = None) -> NormFactory:
    """Return the factory of `norm`, if `model` can start as the norm's option ``init`` asks.

    `reason_against` says, for each start that the model cannot have, why.

    Raises:
        ConfigError: the model cannot start so, or `norm` is no norm.
    """
    factory = as_factory(norm)
    init = factory.residual_init
    if reason_against and init in reason_against:
        raise ConfigError(f"model {model!r} cannot use init={init!r} of norm {factory.name!r}: {reason_against[init]}")
    if init == "fixup" and factory.weight is not None:
        raise ConfigError(
            f"norm {factory.name!r}: init='fixup' scales convolution weights, which {factory.weight.label} undoes"
        )
    return factory


def conv2d(
    norm: NormFactory, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
) -> nn.Module:
    """Build the norm's convolution without bias; under Fixup a scalar bias precedes it."""
    conv = norm.conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
    return nn.Sequential(ScalarBias(), conv) if norm.residual_init == "fixup" else conv


def norm_act(norm: NormFactory, num_channels: int, *, size: int) -> nn.Module:
    """Build norm and activation; under Fixup a scalar bias precedes them."""
    layer = norm.norm_act(num_channels, size=size)
    return nn.Sequential(ScalarBias(), layer) if norm.residual_init == "fixup" else layer


def branch_scale(norm: NormFactory) -> nn.Module:
    """Build what a residual branch is multiplied by: 1 under Fixup, 0 under SkipInit, both learned; else nothing."""
    if norm.residual_init == "fixup":
        return ScalarScale(1.0, rate=FIXUP_RATE)
    return ScalarScale(0.0, rate=1.0) if norm.residual_init == "skipinit" else nn.Identity()


def initialise(
    network: nn.Module, *, norm: NormFactory, branches: Sequence[Sequence[nn.Module]], classifier: nn.Linear
) -> None:
    """Draw all convolution weights from He's normal distribution (fan out), then apply Fixup where it is asked for.

    `branches` holds the convolutions of each residual branch in order. Fixup multiplies all but the last by
    ``len(branches) ** (-1 / (2 m - 2))``, m being the convolutions of a branch, and zeroes the last and the classifier.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Conv2d):
                module.adopt_weight()
    if norm.residual_init != "fixup":
        return
    with torch.no_grad():
        for branch in branches:
            *inner, last = (module for part in branch for module in part.modules() if isinstance(module, nn.Conv2d))
            for conv in inner:
                conv.weight.mul_(len(branches) ** (-1 / (2 * len(inner))))
            last.weight.zero_()
        classifier.weight.zero_()
        classifier.bias.zero_()
