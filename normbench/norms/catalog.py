"""What norms there are: a literal, read-only table, importable without torch.

Each entry names its builder as ``"family_file:function"`` (relative to this package) and lists its options with their
defaults; a test holds both against the builder's signature. `(N, C, H, W)` is the layout everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Kind = Literal["norm", "norm_act", "none"]
OptionValue = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a norm: its default, and what it does and allows in a line."""

    default: OptionValue
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One normalization method.

    `build` is called as ``build(num_channels, **options)`` and returns a module that maps ``(N, C, H, W)`` to the same
    shape, dtype and memory format. Kind ``norm_act`` contains its activation: the model drops its own, and the builder
    takes ``activation: bool`` to leave it out where a block adds before activating.
    """

    build: str
    label: str
    full_name: str
    kind: Kind
    axes: str
    learnable_per_channel: str
    running_state: str
    train_eval_differ: bool
    batch_dependent: bool
    year: int | None
    paper: str
    arxiv: str | None
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def replaces_activation(self) -> bool:
        """Whether the model must leave out the activation that would follow."""
        return self.kind == "norm_act"


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A reparametrisation of convolution weights, written ``norm+key`` (``gn+ws``) and composing with any norm.

    `build` is called as ``build(in_channels, out_channels, kernel_size, *, stride, padding, bias)``.
    """

    build: str
    label: str
    full_name: str
    year: int
    paper: str
    arxiv: str


_EPS = Option(default=1e-5, help="added to the variance, > 0")
_AFFINE = Option(default=True, help="learn a scale and a shift per channel")

NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "bn": Norm(
            build="batch:batch_norm",
            label="BN",
            full_name="Batch Normalization",
            kind="norm",
            axes="N, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="mean, variance",
            train_eval_differ=True,
            batch_dependent=True,
            year=2015,
            paper="Ioffe & Szegedy, Batch Normalization",
            arxiv="1502.03167",
            options={
                "eps": _EPS,
                "momentum": Option(default=0.1, help="weight of the new batch in the running statistics, 0 to 1"),
                "affine": _AFFINE,
            },
        ),
        "ln": Norm(
            build="group:layer_norm",
            label="LN (GroupNorm(1, C))",
            full_name="Layer Normalization as GroupNorm(1, C): statistics over C, H, W, affine per channel",
            kind="norm",
            axes="C, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="none",
            train_eval_differ=False,
            batch_dependent=False,
            year=2016,
            paper="Ba, Kiros & Hinton, Layer Normalization; per-channel affine as in Wu & He 2018",
            arxiv="1607.06450",
            options={"eps": _EPS, "affine": _AFFINE},
        ),
        "in": Norm(
            build="instance:instance_norm",
            label="IN",
            full_name="Instance Normalization",
            kind="norm",
            axes="H, W",
            learnable_per_channel="0 (2 with affine)",
            running_state="none",
            train_eval_differ=False,
            batch_dependent=False,
            year=2016,
            paper="Ulyanov, Vedaldi & Lempitsky, Instance Normalization",
            arxiv="1607.08022",
            options={"eps": _EPS, "affine": Option(default=False, help="learn a scale and a shift per channel")},
        ),
        "gn": Norm(
            build="group:group_norm",
            label="GN",
            full_name="Group Normalization",
            kind="norm",
            axes="C/G, H, W",
            learnable_per_channel="2 (scale, shift)",
            running_state="none",
            train_eval_differ=False,
            batch_dependent=False,
            year=2018,
            paper="Wu & He, Group Normalization",
            arxiv="1803.08494",
            options={
                "groups": Option(default=4, help="number of groups; must divide the channels"),
                "group_size": Option(default=None, help="channels per group, in place of groups"),
                "eps": _EPS,
                "affine": _AFFINE,
            },
        ),
    }
)

WEIGHTS: Mapping[str, Weight] = MappingProxyType({})
