"""`make_norm`: from a name and options to a factory that models call with a number of channels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms.catalog import NORMS, WEIGHTS, Norm, OptionValue, Weight

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class NormFactory:
    """Builds one norm for any number of channels; what every model takes.

    Calling it returns the layer itself, ``(N, C, H, W)`` in and out. Models mostly want `norm_act`, which includes the
    activation that follows, and `norm_only`, for the places of a residual net where none follows.
    """

    name: str
    norm: Norm
    weight: Weight | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __call__(self, num_channels: int) -> nn.Module:
        """Build the layer for `num_channels`; raises `ConfigError` where the options do not fit."""
        return self._build(num_channels, **self.options)

    @property
    def replaces_activation(self) -> bool:
        """Whether the layer contains the activation that would follow it."""
        return self.norm.replaces_activation

    def norm_act(self, num_channels: int) -> nn.Module:
        """Build the layer followed by ReLU, or alone where it contains its own activation."""
        from torch import nn

        layer = self(num_channels)
        return layer if self.replaces_activation else nn.Sequential(layer, nn.ReLU(inplace=True))

    def norm_only(self, num_channels: int) -> nn.Module:
        """Build the layer without any activation, for the end of a residual branch."""
        if not self.replaces_activation:
            return self(num_channels)
        return self._build(num_channels, **self.options, activation=False)

    def conv2d(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> nn.Module:
        """Build the convolution that precedes the norm, weight-standardised where the name says so (``gn+ws``)."""
        if self.weight is None:
            from torch import nn

            return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        build = _load(self.weight.build)
        return build(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)

    def _build(self, num_channels: int, **options: Any) -> nn.Module:
        if num_channels < 1:
            raise ConfigError(f"{self.name}: num_channels must be at least 1, not {num_channels}")
        return _load(self.norm.build)(num_channels, **options)


def make_norm(name: str, **options: OptionValue) -> NormFactory:
    """Return the factory of the norm called `name` (a key of `NORMS`, optionally with ``+ws``).

    Raises:
        UnknownNameError: `name` is not a norm.
        ConfigError: an option is not one of the norm's, or its value is not allowed.
    """
    base, plus, weight = name.partition("+")
    if base not in NORMS:
        raise UnknownNameError("norm", name, NORMS)
    if plus and weight not in WEIGHTS:
        raise UnknownNameError("weight method", weight, WEIGHTS)
    norm = NORMS[base]
    for option in options:
        if option not in norm.options:
            raise UnknownNameError(f"option of norm {base!r}:", option, norm.options or ("(it has none)",))
    return NormFactory(name, norm, WEIGHTS[weight] if plus else None, dict(options))


def _load(target: str) -> Callable[..., nn.Module]:
    """Import ``"family_file:function"`` from this package."""
    module, _, function = target.partition(":")
    return cast("Callable[..., nn.Module]", getattr(importlib.import_module(f"normbench.norms.{module}"), function))
