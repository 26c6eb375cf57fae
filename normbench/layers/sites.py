"""Where in a network its norms are: the places that a factory built, whatever stands there, also nothing."""

from __future__ import annotations

from torch import nn

_MARK = "_is_norm_site"


def mark_site(layer: nn.Module) -> nn.Module:
    """Remember that `layer` is what a network got where it asked for a norm, and return it."""
    layer.__dict__[_MARK] = True  # no parameter, buffer or layer: nothing that a state has
    return layer


def norm_sites(network: nn.Module) -> dict[str, nn.Module]:
    """Return what stands at the places of `network` for norms, by name: norm with its activation, if one follows."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if _MARK in module.__dict__ and not is_inside:
            found[name] = module
    return found
