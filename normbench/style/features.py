"""The feature network that the loss looks through: torchvision's VGG-16, or a ResNet-9 that NormBench trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from normbench.config.schema import RunConfig
from normbench.errors import ConfigError, DataError, RunError, first_line
from normbench.models import MODELS, build_model
from normbench.runs.records import CHECKPOINT_FILE, read_run
from normbench.runs.regular_files import open_regular

VGG16 = "vgg16"
VGG16_STYLE_LAYERS = (3, 8, 15, 22)
"""relu1_2, relu2_2, relu3_3 and relu4_3, as in Johnson et al. 2016."""
VGG16_CONTENT_LAYER = 15
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""The mean and standard deviation that torchvision's weights were trained with, on the scale 0 to 1."""

RESNET9 = "resnet9"
RESNET9_STYLE_LAYERS = (0, 1, 3, 4, 6)
"""Each convolution with its norm and ReLU outside the last residual, and the first residual."""
RESNET9_CONTENT_LAYER = 3
"""The residual: in short trainings its maps were matched sooner than those of the convolution behind it."""


class Features(NamedTuple):
    """The feature maps of one batch that the loss compares."""

    content: torch.Tensor
    style: list[torch.Tensor]


class FeatureNetwork(nn.Module):
    """Runs `layers` up to the last that is looked at; frozen, in evaluation mode, images in [-1, 1] ``(N, 3, H, W)``.

    `mean` and `std`, on the scale 0 to 1, are those by which its own training normalized images.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        content_layer: int,
        style_layers: tuple[int, ...],
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers[: max(content_layer, *style_layers) + 1])
        self.content_layer = content_layer
        self.style_layers = style_layers
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: torch.Tensor) -> Features:
        """Return the feature maps that content and style are compared by."""
        maps = self._maps(images, len(self.layers))
        return Features(maps[self.content_layer], [maps[position] for position in self.style_layers])

    def content(self, images: torch.Tensor) -> torch.Tensor:
        """Return the content's feature maps alone, without running the layers behind them."""
        return self._maps(images, self.content_layer + 1)[-1]

    def _maps(self, images: torch.Tensor, num_layers: int) -> list[torch.Tensor]:
        x = ((images + 1) / 2 - self.mean) / self.std
        maps = []
        for layer in self.layers[:num_layers]:
            x = layer(x)
            maps.append(x)
        return maps


def vgg16_features(weights: Path | None) -> FeatureNetwork:
    """Build VGG-16 with the weights in a file (torchvision's ``state_dict``), or else with those torchvision downloads.

    Raises:
        DataError: the file cannot be read or is not VGG-16's, or the download fails.
    """
    from torchvision.models import vgg16

    state = _download_vgg16() if weights is None else _load(weights)
    with torch.device("meta"):
        layers = vgg16(weights=None).features[: VGG16_STYLE_LAYERS[-1] + 1]
    try:
        layers.load_state_dict({name: state[f"features.{name}"] for name in layers.state_dict()}, assign=True)
    except Exception:  # a file may hold anything in place of a state_dict
        raise DataError(f"{weights or 'download'}: not the weights of torchvision's VGG-16") from None
    return FeatureNetwork(
        list(layers),
        content_layer=VGG16_CONTENT_LAYER,
        style_layers=VGG16_STYLE_LAYERS,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _download_vgg16() -> dict[str, Any]:
    """Return the weights, which torchvision keeps in its own cache."""
    from torchvision.models import VGG16_Weights

    weights = VGG16_Weights.IMAGENET1K_V1
    try:
        state: dict[str, Any] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where the hash does not fit
        raise DataError(
            f"the weights of VGG-16 cannot be downloaded from {weights.url} ({error})\n"
            "  if you have the file:  --vgg16-weights FILE\n"
            "  without it:            --features resnet9 (trains a feature network on the images there are)"
        ) from None
    return state


def resnet9_features(run_folder: Path) -> FeatureNetwork:
    """Build the ResNet-9 of a run that was trained with ``--keep-checkpoint``.

    Raises:
        RunError: it is not the folder of a run.
        ConfigError: the run has another model, or a norm that fits one image size only.
        DataError: it has no checkpoint, or a damaged one.
    """
    config = check_features_run(run_folder)
    family = MODELS[RESNET9].family
    network = build_model(
        RESNET9, norm=family.make(config.norm.name, **config.norm.options), **dict(config.model.options)
    )
    state = _load(run_folder / CHECKPOINT_FILE)
    try:
        network.load_state_dict(state["model"])
    except Exception:  # a file may hold anything in place of a state_dict
        raise DataError(f"{run_folder / CHECKPOINT_FILE}: not the checkpoint of this run") from None
    layers = network.get_submodule("features")
    assert isinstance(layers, nn.Sequential)
    return FeatureNetwork(list(layers), content_layer=RESNET9_CONTENT_LAYER, style_layers=RESNET9_STYLE_LAYERS)


def check_features_run(run_folder: Path) -> RunConfig:
    """Return the config of a run whose network can serve as feature network; raises as `resnet9_features` does."""
    if not run_folder.is_dir():
        raise RunError(f"--features {run_folder}: no such run folder; or give {RESNET9} or {VGG16}")
    config = read_run(run_folder).config
    if not isinstance(config, RunConfig) or config.model.name != RESNET9:
        raise ConfigError(f"--features {run_folder}: that run trained {config.model_name}; it takes a {RESNET9}")
    if config.norm.code is not None:
        raise ConfigError(
            f"--features {run_folder}: its norm {config.norm.name} is of its own; take a run with another"
        )
    if MODELS[RESNET9].family.norms[config.norm.name.partition("+")[0]].needs_size:
        raise ConfigError(f"--features {run_folder}: its norm {config.norm.name} fits images of 32x32 only")
    if not (run_folder / CHECKPOINT_FILE).is_file():
        raise DataError(f"{run_folder}: no {CHECKPOINT_FILE} there; train it with --keep-checkpoint --force")
    return config


def _load(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises what the damaged file leads it to
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None
    return state
