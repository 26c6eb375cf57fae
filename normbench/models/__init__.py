"""The networks in which norms are compared: a literal registry, importable without torch.

Every model takes ``norm``, a norm factory or any function or class of a number of channels, and never a norm's name;
`Model.norm_family` says whether it takes norms of images or of sequences. To add a model: write it in a file beside
this one and add an entry to `MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from normbench.errors import ConfigError
from normbench.norms import NORM_FAMILIES, AnyNormFactory, FamilyName, NormFamily
from normbench.registry import OptionValue, check_option_names, find, load

if TYPE_CHECKING:
    from torch import nn

TaskName = Literal["classification", "style_transfer"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network, built by ``build(norm=factory, **options)``.

    For classification it also takes ``num_classes=10`` and ``image_size=32`` and maps ``(N, 3, 32, 32)`` to
    ``(N, 10)``; for style transfer it maps images to images.
    """

    build: str | Callable[..., nn.Module]
    """The class or function that builds it, or where it is: ``"package.module:attribute"``."""
    label: str
    description: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """The options with their defaults."""
    required: tuple[str, ...] = ()
    """Options without a default; only networks of a user's own have such."""
    unrecorded_at_default: Collection[str] = ()
    """Options that were added when runs without them had been recorded; see `registry.Option.recorded_at_default`."""
    norm_family: FamilyName = "image"
    task: TaskName = "classification"

    @property
    def family(self) -> NormFamily:
        """The norms that the model takes, and how they are made."""
        return NORM_FAMILIES[self.norm_family]


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "norm_resnet": Model(
            build="normbench.models.normresnet:NormResNet",
            label="NormResNet",
            description="the tutorial's net: four 3x3 convolutions (64, 128, 256, 512), pooling, a linear layer",
        ),
        "norm_resnet_small": Model(
            build="normbench.models.normresnet:small_norm_resnet",
            label="NormResNet, small",
            description="norm_resnet with a quarter of its channels: for demos, trains on a CPU in seconds",
        ),
        "resnet18": Model(
            build="normbench.models.resnet:resnet18",
            label="ResNet-18",
            description="torchvision's ResNet-18 with a CIFAR stem: a 3x3 convolution of stride 1, no pooling",
        ),
        "preact_resnet18": Model(
            build="normbench.models.preact_resnet:PreActResNet18",
            label="PreAct ResNet-18",
            description="norm and activation before each convolution; the fair host of FRN and EvoNorm",
        ),
        "resnet9": Model(
            build="normbench.models.resnet9:ResNet9",
            label="ResNet-9",
            description="the small residual net of fast CIFAR-10 training (DAWNBench)",
        ),
        "speednet": Model(
            build="normbench.models.speednet:SpeedNet",
            label="SpeedNet",
            description="a whitening layer and six wide convolutions, after airbench94: 94 % in seconds on a GPU",
        ),
        "vgg_a": Model(
            build="normbench.models.vgg:VGGA",
            label="VGG-A",
            description="eight 3x3 convolutions with pooling, three linear layers; the host of smoothness studies",
        ),
        "wrn28_10": Model(
            build="normbench.models.wide_resnet:WideResNet28x10",
            label="WRN-28-10",
            description="the wide residual net, 36 million parameters; meant for a GPU",
        ),
        "convnext": Model(
            build="normbench.models.convnext:ConvNeXt",
            label="ConvNeXt",
            description="a small ConvNeXt, one norm per block; the fair host of ln2d and of norms between two 1x1s",
        ),
        "vit": Model(
            build="normbench.models.transformer:VisionTransformer",
            label="ViT",
            description="a small vision transformer on 4x4 patches; takes sequence norms",
            options={
                "pre_norm": True,
                "d_model": 192,
                "depth": 6,
                "n_head": 3,
                "placement": None,
                "qk_norm": "none",
                "scale_by_depth": False,
            },
            unrecorded_at_default=("placement", "qk_norm", "scale_by_depth"),
            norm_family="sequence",
        ),
        "stylenet": Model(
            build="normbench.models.stylenet:StyleTransferNet",
            label="StyleTransferNet",
            description="images to images in another style; trained by `normbench stylize`, not by train or compare",
            task="style_transfer",
        ),
    }
)


def build_model(
    model: str | Model, *, norm: AnyNormFactory | Callable[[int], nn.Module], **options: OptionValue
) -> nn.Module:
    """Build `model`, a key of `MODELS` or an entry like theirs, with `norm`, a factory or a function of a number.

    `options` are the model's own; classifiers also take ``num_classes`` and ``image_size``, height and width of a
    square image.

    Raises:
        UnknownNameError: the model is not a model, or an option is not one of its options.
        ConfigError: the norm is of another family, no norm at all, or cannot be built for the model's channels, or an
            option's value is not allowed.
    """
    entry = find("model", model, MODELS) if isinstance(model, str) else model
    name = model if isinstance(model, str) else entry.label
    images = ("num_classes", "image_size") if entry.task == "classification" else ()
    check_option_names(f"model {name!r}", set(options) - set(images), entry.options)
    if isinstance(norm, AnyNormFactory) and not isinstance(norm, entry.family.factory):
        make = entry.family.make.__name__
        raise ConfigError(f"model {name!r} takes a {entry.family.kind}: give it {make}({norm.name!r}), not {norm!r}")
    build = load(entry.build) if isinstance(entry.build, str) else entry.build
    return cast("nn.Module", build(norm=norm, **options))
