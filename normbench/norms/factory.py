"""`make_norm`: from a name and options to a factory that models call with a number of channels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms.catalog import NORMS, WEIGHTS
from normbench.norms.entry import Norm, OptionValue, Weight

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class NormFactory:
    """Builds one norm for any number of channels; what every model takes.

    Calling it returns the layer itself, ``(N, C, H, W)`` in and out. Models mostly want `norm_act`, which includes the
    activation that follows, and `norm_only`, for the places of a residual net where none follows. All three take the
    ``size`` of their input, (H, W) or one number for a square: a norm with parameters per pixel (`ln_chw`) needs it,
    the others do not look at it. All three raise `ConfigError` where the options do not fit.
    """

    name: str
    norm: Norm
    weight: Weight | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __call__(self, num_channels: int, *, size: int | tuple[int, int] | None = None) -> nn.Module:
        """Build the layer for `num_channels`, with its activation if it contains one."""
        return self._build(num_channels, size, self.options)

    @property
    def replaces_activation(self) -> bool:
        """Whether the layer contains the activation that would follow it."""
        return self.norm.replaces_activation

    @property
    def residual_init(self) -> str:
        """How a residual net starts: ``default``, or without a norm ``fixup`` or ``skipinit`` (option `init`)."""
        return str(self.options.get("init", "default"))

    def norm_act(self, num_channels: int, *, size: int | tuple[int, int] | None = None) -> nn.Module:
        """Build the layer followed by ReLU, or alone where it contains its own activation; fused where it can be."""
        from torch import nn

        from normbench.layers.norm_act import fuse

        layer = self(num_channels, size=size)
        if self.replaces_activation:
            return fuse(layer)
        # In place only on a tensor that the norm made: without a norm it would overwrite the block's own input.
        return fuse(layer, nn.ReLU(inplace=self.norm.kind != "none"))

    def norm_only(self, num_channels: int, *, size: int | tuple[int, int] | None = None) -> nn.Module:
        """Build the layer without any activation, for the end of a residual branch; fused where it can be."""
        from normbench.layers.norm_act import fuse

        if not self.replaces_activation:
            return fuse(self(num_channels, size=size))
        return fuse(self._build(num_channels, size, {**self.options, "activation": False}))

    def conv2d(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> nn.Conv2d:
        """Build the convolution that precedes the norm, weight-standardised where the name says so (``gn+ws``)."""
        from normbench.layers.conv2d import Conv2d

        build = Conv2d if self.weight is None else load(self.weight.build)
        conv = build(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        return cast("nn.Conv2d", conv)

    def _build(self, num_channels: int, size: int | tuple[int, int] | None, options: Mapping[str, Any]) -> nn.Module:
        if num_channels < 1:
            raise ConfigError(f"{self.name}: num_channels must be at least 1, not {num_channels}")
        if self.norm.needs_size:
            if size is None:
                raise ConfigError(
                    f"{self.name} has parameters per pixel, so the image size must be given where the layer is built: "
                    "norm(num_channels, size=8) for 8x8"
                )
            options = {**options, "size": (size, size) if isinstance(size, int) else tuple(size)}
        return cast("nn.Module", load(self.norm.build)(num_channels, **options))


def make_norm(name: str, **options: OptionValue) -> NormFactory:
    """Return the factory of the norm called `name` (a key of `NORMS`, optionally with ``+ws`` or ``+sws``).

    Raises:
        UnknownNameError: `name` is not a norm, or an option is not one of its options.
        ConfigError: an option's value is not allowed.
    """
    base, plus, weight = name.partition("+")
    if base not in NORMS:
        raise UnknownNameError("norm", name, NORMS)
    if plus and weight not in WEIGHTS:
        raise UnknownNameError("weight method", weight, WEIGHTS)
    norm = NORMS[base]
    check_options(base, norm, options)
    return NormFactory(name, norm, WEIGHTS[weight] if plus else None, dict(options))


def check_options(name: str, norm: Norm, options: Mapping[str, OptionValue]) -> None:
    """Raise unless `options` are options of `norm`, called `name`, with allowed values.

    Raises:
        UnknownNameError: one of them is not an option of the norm.
        ConfigError: a value is not allowed, or two options exclude each other.
    """
    for option, value in options.items():
        if option not in norm.options:
            raise UnknownNameError(f"option of norm {name!r}:", option, norm.options or ("(it has none)",))
        specification = norm.options[option]
        specification.check(f"{name}: {option}", value)
        other = specification.instead_of
        if other is not None and value is not None and options.get(other) is not None:
            raise ConfigError(f"{name}: give one of {other} and {option}, not both")


def load(target: str) -> Callable[..., object]:
    """Import ``"family_file:function"`` from this package."""
    module, _, function = target.partition(":")
    return cast("Callable[..., object]", getattr(importlib.import_module(f"normbench.norms.{module}"), function))
