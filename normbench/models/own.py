"""Networks of a user's own: from a class or function to an entry like those of `MODELS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normbench.errors import ConfigError
from normbench.models import Model
from normbench.norms import NORM_FAMILIES, AnyNormFactory
from normbench.own_code import Source, Target, line_of, load_attribute, make_caller, read_signature
from normbench.registry import OptionValue

if TYPE_CHECKING:
    from torch import nn


def own_model(target: Target, source: Source) -> Model:
    """Return the entry of a class or function of a user's own, which takes ``norm``, a factory, and returns a network.

    It is also given ``num_classes`` and ``image_size`` where it has such parameters; its others are its options. With
    an attribute `norm_family` of ``"sequence"`` it takes norms of token sequences.

    Raises:
        ConfigError: the code cannot be executed, or its signature cannot be served.
    """
    function = load_attribute(target, source)
    signature = read_signature(function, source, first=("norm",), may_give=("num_classes", "image_size"))
    if signature.first != "norm":
        raise ConfigError(f"{line_of(function, source)}: {target.attribute} must take norm: norm(64) makes a layer")
    family: Any = getattr(function, "norm_family", "image")
    if family not in NORM_FAMILIES:
        raise ConfigError(
            f"{line_of(function, source)}: {target.attribute}.norm_family={family!r} is none of "
            f"{', '.join(NORM_FAMILIES)}"
        )
    call = make_caller(function, target.attribute, source, signature)

    def build(norm: AnyNormFactory, **options: OptionValue) -> nn.Module:
        takes = {key: value for key, value in options.items() if key not in _GIVEN or key in signature.given}
        network: nn.Module = call(norm, **takes)
        return network

    return Model(
        build=build, label=target.attribute, description=f"{target.attribute} of {source.file}",
        options={key: option.default for key, option in signature.options.items()}, required=signature.required,
        norm_family=family,
    )  # fmt: skip


_GIVEN = ("num_classes", "image_size")
