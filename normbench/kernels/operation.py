"""A normalization with the activation after it, by whichever kernels its description asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from normbench.kernels import moments, norm_activation, pixel_affine, squashing, window
from normbench.kernels.spec import MomentsSpec, NormActSpec, PixelSpec, WindowSpec
from normbench.kernels.squashing import SquashSpec

AnySpec = NormActSpec | MomentsSpec | PixelSpec | WindowSpec | SquashSpec


class _Operation(NamedTuple):
    """What computes the descriptions of one type, says why it cannot, and launches all its kernels to compile them."""

    run: Callable[..., Tensor]
    unsupported_reason: Callable[[Tensor, Any], str | None]
    launch_all: Callable[..., None]


_OPERATIONS: Mapping[type, _Operation] = MappingProxyType(
    {
        NormActSpec: _Operation(
            norm_activation.norm_act, norm_activation.unsupported_reason, norm_activation.launch_all
        ),
        MomentsSpec: _Operation(moments.moments_norm_act, moments.unsupported_moments_reason, moments.launch_all),
        PixelSpec: _Operation(
            pixel_affine.pixel_norm_act, pixel_affine.unsupported_pixel_reason, pixel_affine.launch_all
        ),
        WindowSpec: _Operation(window.window_norm_act, window.unsupported_window_reason, window.launch_all),
        SquashSpec: _Operation(squashing.squash, squashing.unsupported_squash_reason, squashing.launch_all),
    }
)


def norm_act(x: Tensor, spec: AnySpec, *parameters: Tensor | None, **arguments: Any) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with gradients.

    Takes the arguments, and raises the errors, of `norm_activation.norm_act` for a `NormActSpec`,
    `moments.moments_norm_act` for a `MomentsSpec`, `pixel_affine.pixel_norm_act` for a `PixelSpec`,
    `window.window_norm_act` for a `WindowSpec` and `squashing.squash` for a `SquashSpec`.
    """
    return _OPERATIONS[type(spec)].run(x, spec, *parameters, **arguments)


def unsupported_reason(x: Tensor, spec: AnySpec) -> str | None:
    """Return None where `norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    return _OPERATIONS[type(spec)].unsupported_reason(x, spec)


def launch_all(x: Tensor, spec: AnySpec, arguments: Mapping[str, Any]) -> None:
    """Launch every kernel that `norm_act` and its gradient launch with such arguments; for use in a `Compilation`."""
    _OPERATIONS[type(spec)].launch_all(x, spec, **arguments)
