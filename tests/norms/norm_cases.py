"""The layers that the tests of this folder walk over, and how to fill one with arbitrary state."""

from __future__ import annotations

import torch
from torch import nn

from normbench.norms import NORMS, make_norm

CHANNELS = 8
SIZE = 6

# Every norm with its defaults (groups that fit CHANNELS aside), and the options that change its formula.
CASES: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in NORMS),
    ("bn", {"affine": False}),
    ("bn", {"center": False}),
    ("bn", {"deviation": "l1"}),
    ("bn", {"deviation": "none"}),
    ("bn", {"learn_scale": False}),
    ("bn", {"center": False, "deviation": "l1", "affine": False}),
    ("mabn", {"num_batches": 2, "affine": False}),
    ("online", {"layer_scaling": False, "decay": 0.9}),
    ("iternorm", {"groups": 2}),
    ("iternorm", {"group_size": 2, "num_iterations": 3}),
    ("ghost_bn", {"norm_batch_size": 2}),
    ("ghost_bn", {"norm_batch_size": 3, "momentum": 0.3}),
    ("brn", {"affine": False, "r_max": 1.5}),
    ("ln_chw", {"affine": False}),
    ("in", {"affine": True}),
    ("gn", {"groups": 2}),
    ("gn", {"group_size": 4, "eps": 1e-3}),
    ("group_rms", {"group_size": 1}),
    ("group_rms", {"groups": 2, "shift": True}),
    ("sn", {"use_bn": False}),
    ("sn", {"affine": False}),
    ("ibn", {"ratio": 0.3}),
    ("bcn", {"groups": 2}),
    ("frn", {"learnable_eps": True}),
    ("evonorm_s0", {"groups": 2}),
    ("evonorm_s1", {"group_size": 4}),
    ("evonorm_s2", {"groups": 1}),
    ("lrn", {"size": 4, "alpha": 0.5, "beta": 0.5, "k": 2.0}),
    ("none", {"affine": True}),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in CASES]


MEAN_SQUARES = ("running_deviation", "running_mean_square", "mean_squares", "running_power")
"""Buffers that hold no negative value."""
EXACT = [(name, options) for name, options in CASES if not NORMS[name].has_surrogate_gradient]
"""The cases whose backward pass is the derivative of their forward pass."""
EXACT_IDS = [case_id for case_id, (name, _) in zip(IDS, CASES, strict=True) if not NORMS[name].has_surrogate_gradient]


def build(name: str, options: dict[str, object], *, channels: int = CHANNELS, size: int = SIZE) -> nn.Module:
    """Build a norm for square images."""
    return make_norm(name, **options)(channels, size=size)  # type: ignore[arg-type]


def fill(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give every parameter and buffer an arbitrary value that it could have in training."""

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            leaf = name.rpartition(".")[2]
            if leaf in ("weight", "group_weight", "v1", "running_var", "running_std", *MEAN_SQUARES):
                tensor.copy_(uniform(tensor, 0.5, 1.5))
            elif leaf in ("gate", "alpha"):
                tensor.copy_(uniform(tensor, 0.2, 0.8))
            elif leaf == "r_limit":
                tensor.fill_(2.0)
            elif leaf == "d_limit":
                tensor.fill_(0.5)
            elif leaf == "learned_eps":
                tensor.fill_(-0.03)
            elif leaf not in ("num_batches_tracked", "num_steps"):
                tensor.copy_(uniform(tensor, -0.5, 0.5))
    return layer


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Images whose channels and samples differ in mean and scale, so that no two norms agree on them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples, channels = shape[:2]
    scale = 0.5 + normal(1, channels, 1, 1).abs() + normal(samples, 1, 1, 1).abs()
    mean = 0.5 * normal(1, channels, 1, 1) + 0.3 * normal(samples, 1, 1, 1)
    return (normal(*shape) * scale + mean).to(dtype)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
