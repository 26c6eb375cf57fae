"""The types of the norm catalog's entries; importable without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from normbench.registry import Option

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["norm", "norm_act", "none"]
UNKNOWN = "unknown"
"""Stands where nothing is known of a norm, because it is of a user's own."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One normalization method.

    Its builder is called as ``build(num_channels, **fixed, **options)`` and returns a module that maps ``(N, C, H, W)``
    to the same shape, dtype and memory format. Kind ``norm_act`` contains its activation: the model drops its own, and
    the builder takes ``activation: bool`` to leave it out where a block adds before activating. With `needs_size` the
    builder also takes ``size: tuple[int, int]``, the (H, W) of its input.
    """

    build: str | Callable[..., nn.Module]
    """The builder, or where it is: ``"package.module:function"``."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that set this norm apart from others with the same builder."""
    label: str
    """Short, for legends."""
    full_name: str
    kind: Kind = "norm"
    axes: str
    """The axes that each statistic runs over, ``"H, W; N, H, W"`` for two; ``C/G`` is a part of C; ``"none"``."""
    learnable_per_channel: str
    running_state: str = "none"
    train_eval_differ: bool = False
    batch_dependent: bool = False
    """Whether, in training, a sample's output depends on the other samples."""
    has_surrogate_gradient: bool = False
    """Whether its backward pass is, by its definition, not the derivative of its forward pass."""
    needs_size: bool = False
    folds_into_conv: bool = False
    """Whether in evaluation it is affine per channel, so that the convolution before it can take it over."""
    has_kernel: bool = True
    """Whether kernels compute it with its default options on a GPU; otherwise torch's operations do, which shows in its
    times."""
    year: int | None
    paper: str
    arxiv: str | None
    options: Mapping[str, Option] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    """Options without a default; only norms of a user's own have such."""

    @property
    def replaces_activation(self) -> bool:
        """Whether the model must leave out the activation that would follow."""
        return self.kind == "norm_act"

    @property
    def axis_sets(self) -> tuple[tuple[str, ...], ...]:
        """The axes of each statistic: ``(("H", "W"), ("N", "H", "W"))``; empty without statistics."""
        if self.axes in ("none", UNKNOWN):
            return ()
        return tuple(tuple(part.split(", ")) for part in self.axes.split("; "))

    @property
    def traits(self) -> tuple[str, ...]:
        """The norm's cells in a table: axes of its statistics, learned parameters, running state, and three answers.

        "yes" or "no" say whether training and evaluation differ, the batch matters, and the activation is replaced.
        """
        answers = (self.train_eval_differ, self.batch_dependent, self.replaces_activation)
        return self.axes, self.learnable_per_channel, self.running_state, *("yes" if yes else "no" for yes in answers)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A reparametrisation of convolution weights, written ``norm+key`` (``gn+ws``) and composing with any norm.

    Its builder is called as ``build(in_channels, out_channels, kernel_size, *, stride, padding, bias)`` and returns a
    `torch.nn.Conv2d`.
    """

    build: str
    """Where the builder is: ``"package.module:function"``."""
    label: str
    full_name: str
    learnable_per_channel: str
    year: int
    paper: str
    arxiv: str
