"""The networks that host the norms: a literal registry, importable without torch.

Every model takes ``norm``, a norm factory, and never a norm's name; its `Model.norm_family` says of which registry. To
add one: write it in a file beside this one and add a line to `MODELS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms import NORM_FAMILIES, AnyNormFactory, FamilyName, NormFamily

if TYPE_CHECKING:
    from torch import nn

OptionValue = bool | int | float | str | None
TaskName = Literal["classification", "style_transfer"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network, built by ``build(norm=factory, **options)``.

    For classification it also takes ``num_classes=10`` and maps ``(N, 3, 32, 32)`` to ``(N, 10)``; for style transfer
    it maps images to images.
    """

    build: str
    label: str
    description: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Its options with their defaults."""
    norm_family: FamilyName = "image"
    task: TaskName = "classification"

    @property
    def family(self) -> NormFamily:
        """The norms that it takes."""
        return NORM_FAMILIES[self.norm_family]


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "norm_resnet": Model(
            build="normresnet:NormResNet",
            label="NormResNet",
            description="the tutorial's net: four 3x3 convolutions (64, 128, 256, 512), pooling, a linear layer",
        ),
        "resnet18": Model(
            build="resnet:resnet18",
            label="ResNet-18",
            description="torchvision's ResNet-18 with a CIFAR stem: a 3x3 convolution of stride 1, no pooling",
        ),
        "preact_resnet18": Model(
            build="preact_resnet:PreActResNet18",
            label="PreAct ResNet-18",
            description="norm and activation before each convolution; the fair host of FRN and EvoNorm",
        ),
        "resnet9": Model(
            build="resnet9:ResNet9",
            label="ResNet-9",
            description="the small residual net of fast CIFAR-10 training (DAWNBench)",
        ),
        "vit": Model(
            build="transformer:VisionTransformer",
            label="ViT",
            description="a small vision transformer on 4x4 patches; takes sequence norms",
            options={"pre_norm": True, "d_model": 192, "depth": 6, "n_head": 3},
            norm_family="sequence",
        ),
        "stylenet": Model(
            build="stylenet:StyleTransferNet",
            label="StyleTransferNet",
            description="images to images in another style; trained by `normbench stylize`, not by train or compare",
            task="style_transfer",
        ),
    }
)


def build_model(name: str, *, norm: AnyNormFactory, **options: OptionValue) -> nn.Module:
    """Build the model called `name` with `norm`.

    Raises:
        UnknownNameError: `name` is not a model, or an option is not one of its options.
        ConfigError: the norm is of another family, cannot be built for the model's channels, or an option's value is
            not allowed.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    model = MODELS[name]
    for option in options:
        if option not in model.options:
            raise UnknownNameError(f"option of model {name!r}:", option, model.options or ("(it has none)",))
    if not isinstance(norm, model.family.factory):
        make = model.family.make.__name__
        raise ConfigError(f"model {name!r} takes a {model.family.kind}: give it {make}({norm.name!r}), not {norm!r}")
    module, _, attribute = model.build.partition(":")
    network: nn.Module = getattr(importlib.import_module(f"normbench.models.{module}"), attribute)(norm=norm, **options)
    return network
