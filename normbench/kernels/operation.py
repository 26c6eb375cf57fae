"""A normalization with the activation after it, by whichever kernels its description asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from normbench.kernels import moments, norm_activation, pixel_affine, window
from normbench.kernels.spec import AnySpec, MomentsSpec, PixelSpec, WindowSpec


def norm_act(x: Tensor, spec: AnySpec, *parameters: Tensor | None, **arguments: Any) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with gradients.

    Takes the arguments of `norm_activation.norm_act` for a `NormActSpec`, of `moments.moments_norm_act` for a
    `MomentsSpec`, of `pixel_affine.pixel_norm_act` for a `PixelSpec`, none for a `WindowSpec`, and raises what these
    raise.
    """
    if isinstance(spec, WindowSpec):
        return window.window_norm_act(x, spec)
    if isinstance(spec, PixelSpec):
        return pixel_affine.pixel_norm_act(x, spec, *parameters, **arguments)
    if isinstance(spec, MomentsSpec):
        return moments.moments_norm_act(x, spec, *parameters, **arguments)
    return norm_activation.norm_act(x, spec, *parameters, **arguments)


def unsupported_reason(x: Tensor, spec: AnySpec) -> str | None:
    """Return None where `norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    if isinstance(spec, WindowSpec):
        return window.unsupported_window_reason(x, spec)
    if isinstance(spec, PixelSpec):
        return pixel_affine.unsupported_pixel_reason(x, spec)
    if isinstance(spec, MomentsSpec):
        return moments.unsupported_moments_reason(x, spec)
    return norm_activation.unsupported_reason(x, spec)


def launch_all(x: Tensor, spec: AnySpec, arguments: Mapping[str, Any]) -> None:
    """Launch every kernel that `norm_act` and its gradient launch with such arguments; for use in a `Compilation`."""
    if isinstance(spec, WindowSpec):
        window.launch_all(x, spec)
    elif isinstance(spec, PixelSpec):
        pixel_affine.launch_all(x, spec, **arguments)
    elif isinstance(spec, MomentsSpec):
        moments.launch_all(x, spec, arguments)
    else:
        parameters = norm_activation.Parameters(*(arguments.get(name) for name in ("weight", "bias", "extra")))
        norm_activation.launch_all(x, spec, parameters, running=arguments.get("running_mean") is not None)
