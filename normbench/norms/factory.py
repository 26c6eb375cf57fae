"""Norm factories: from a name and options, or from a function of one's own, to what models call for their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms.catalog import NORMS, SEQUENCE_NORMS, WEIGHTS
from normbench.norms.entry import UNKNOWN, Norm, Weight
from normbench.registry import OptionValue, check_option_names, find, load

if TYPE_CHECKING:
    from torch import nn

FamilyName = Literal["image", "sequence"]


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

    def norm_act(
        self,
        num_channels: int,
        *,
        size: int | tuple[int, int] | None = None,
        activation: Literal["relu", "gelu"] = "relu",
    ) -> nn.Module:
        """Build the layer followed by `activation`, or alone where it contains its own; fused where it can be."""
        from torch import nn

        from normbench.layers.norm_act import fuse
        from normbench.layers.sites import mark_site

        layer = self(num_channels, size=size)
        if self.replaces_activation:
            return mark_site(fuse(layer))
        if activation == "gelu":
            return mark_site(fuse(layer, nn.GELU()))
        # In place only on a tensor that a norm of the catalog made: one that gives back its input, as no norm does and
        # a function of the user's may, would have the block's own input overwritten.
        relu = nn.ReLU(inplace=self.norm.kind != "none" and isinstance(self.norm.build, str))
        return mark_site(fuse(layer, relu))

    def norm_only(self, num_channels: int, *, size: int | tuple[int, int] | None = None) -> nn.Module:
        """Build the layer without any activation, for the end of a residual branch; fused where it can be."""
        from normbench.layers.norm_act import fuse
        from normbench.layers.sites import mark_site

        if not self.replaces_activation:
            return mark_site(fuse(self(num_channels, size=size)))
        return mark_site(fuse(self._build(num_channels, size, {**self.options, "activation": False})))

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
        return _build(self.name, self.norm, num_channels, options)


@dataclass(frozen=True)
class SequenceNormFactory:
    """Builds one norm for any number of features: ``factory(d_model)``, a module with ``(N, T, D)`` in and out."""

    name: str
    norm: Norm
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __call__(self, d_model: int) -> nn.Module:
        """Build the layer."""
        if d_model < 1:
            raise ConfigError(f"{self.name}: d_model must be at least 1, not {d_model}")
        return _build(self.name, self.norm, d_model, self.options)


AnyNormFactory = NormFactory | SequenceNormFactory
NormLike = NormFactory | Callable[[int], "nn.Module"]
"""A factory, or any function or class that takes a number of channels and returns a layer: ``nn.BatchNorm2d``."""
SequenceNormLike = SequenceNormFactory | Callable[[int], "nn.Module"]
"""A factory, or any function or class that takes a number of features and returns a layer: ``nn.LayerNorm``."""


def make_norm(name: str, **options: OptionValue) -> NormFactory:
    """Return the factory of the norm called `name` (a key of `NORMS`, optionally with ``+ws`` or ``+sws``).

    Raises:
        UnknownNameError: `name` is not a norm, or an option is not one of its options.
        ConfigError: an option's value is not allowed.
    """
    base, plus, weight = name.partition("+")
    if base not in NORMS:
        raise UnknownNameError("norm", name, NORMS)
    method = find("weight method", weight, WEIGHTS) if plus else None
    check_options(base, NORMS[base], options)
    return NormFactory(name, NORMS[base], method, dict(options))


def make_sequence_norm(name: str, **options: OptionValue) -> SequenceNormFactory:
    """Return the factory of the sequence norm called `name`, a key of `SEQUENCE_NORMS`.

    Raises:
        UnknownNameError: `name` is not a sequence norm, or an option is not one of its options.
        ConfigError: an option's value is not allowed.
    """
    norm = find("sequence norm", name, SEQUENCE_NORMS)
    check_options(name, norm, options)
    return SequenceNormFactory(name, norm, dict(options))


def as_factory(norm: NormLike) -> NormFactory:
    """Return `norm` itself if it is a factory, and otherwise the factory of a function or class of `num_channels`.

    Raises:
        ConfigError: it is neither: a name, a layer, or a factory of sequence norms.
    """
    if isinstance(norm, NormFactory):
        return norm
    name = _callable_name(norm, "make_norm")
    return NormFactory(name, _plain_entry(name, norm))


def as_sequence_factory(norm: SequenceNormLike) -> SequenceNormFactory:
    """Return `norm` itself if it is a factory, and otherwise the factory of a function or class of `d_model`.

    Raises:
        ConfigError: it is neither: a name, a layer, or a factory of image norms.
    """
    if isinstance(norm, SequenceNormFactory):
        return norm
    name = _callable_name(norm, "make_sequence_norm")
    return SequenceNormFactory(name, _plain_entry(name, norm))


def check_options(name: str, norm: Norm, options: Mapping[str, OptionValue]) -> None:
    """Raise unless `options` are options of `norm`, called `name`, with allowed values.

    Raises:
        UnknownNameError: one of them is not an option of the norm.
        ConfigError: a value is not allowed, or two options exclude each other.
    """
    check_option_names(f"norm {name!r}", options, norm.options)
    for option, value in options.items():
        specification = norm.options[option]
        specification.check(f"{name}: {option}", value)
        other = specification.instead_of
        if other is not None and value is not None and options.get(other) is not None:
            raise ConfigError(f"{name}: give one of {other} and {option}, not both")


def _build(name: str, norm: Norm, size: int, options: Mapping[str, Any]) -> nn.Module:
    """Build the layer for `size` channels or features."""
    from torch import nn

    from normbench.layers.sites import mark_site

    build = load(norm.build) if isinstance(norm.build, str) else norm.build
    layer = build(size, **norm.fixed, **options)
    if not isinstance(layer, nn.Module):
        raise ConfigError(f"norm {name!r} must return a layer, a torch.nn.Module; for {size} it returned {layer!r}")
    return mark_site(layer)


def _callable_name(norm: object, make: str) -> str:
    """Return the name of a function or class, also of one inside a `functools.partial`."""
    from torch import nn

    wanted = f"norm must be made by {make}, or be a function or class of the number of channels, such as"
    example = "torch.nn.BatchNorm2d" if make == "make_norm" else "torch.nn.LayerNorm"
    if isinstance(norm, str):
        raise ConfigError(f"{wanted} {example}, not a name: {make}({norm!r})")
    if isinstance(norm, AnyNormFactory):
        raise ConfigError(f"{wanted} {example}: give it {make}({norm.name!r}), not {norm!r}")
    if isinstance(norm, nn.Module):
        raise ConfigError(f"{wanted} {example}, not the layer {norm!r}: the network builds a layer for each place")
    if not callable(norm):
        raise ConfigError(f"{wanted} {example}, not {norm!r}")
    function = getattr(norm, "func", norm)
    return str(getattr(function, "__name__", type(function).__name__))


def _plain_entry(name: str, build: Callable[..., nn.Module]) -> Norm:
    """Return the entry of a norm of which no more is known than how it is built."""
    return Norm(
        build=build, label=name, full_name=name, axes=UNKNOWN, learnable_per_channel=UNKNOWN, running_state=UNKNOWN,
        year=None, paper="", arxiv=None,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NormFamily:
    """The norms of one layout, of images or of sequences, and how a factory is made from them."""

    kind: str
    """The word for a norm of it in messages."""
    norms: Mapping[str, Norm]
    weights: Mapping[str, Weight]
    """The methods that a name may end in after a plus sign."""
    make: Callable[..., AnyNormFactory]
    factory: type[AnyNormFactory]
    """The type that `make` returns."""


NORM_FAMILIES: Mapping[FamilyName, NormFamily] = MappingProxyType(
    {
        "image": NormFamily(kind="norm", norms=NORMS, weights=WEIGHTS, make=make_norm, factory=NormFactory),
        "sequence": NormFamily(
            kind="sequence norm",
            norms=SEQUENCE_NORMS,
            weights=MappingProxyType({}),
            make=make_sequence_norm,
            factory=SequenceNormFactory,
        ),
    }
)
