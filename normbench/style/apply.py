"""Applying a trained network, its file, and how much its output changes with the contrast of its input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from normbench.config.schema import NormConfig
from normbench.config.style import STYLENET
from normbench.engine.batches import normalize
from normbench.engine.checkpoint import write_tensors
from normbench.errors import DataError, first_line
from normbench.models import MODELS, build_model
from normbench.norms import AnyNormFactory
from normbench.own_code import is_own
from normbench.style.images import Pixels, crop_back, pad_image

CONTRAST_FACTORS = (0.8, 0.6, 0.4, 0.2)


@torch.no_grad()
def stylize(network: nn.Module, image: Pixels) -> Pixels:
    """Return `image`, ``(H, W, 3)`` of any size, in the network's style; evaluation mode, padded and cut back."""
    height, width = image.shape[:2]
    device = next(network.parameters()).device
    padded = torch.from_numpy(pad_image(image)).to(device).permute(2, 0, 1)[None]
    output = network.eval()(normalize(padded))[0].permute(1, 2, 0)
    pixels: Pixels = ((output + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return crop_back(pixels, height, width)


def stylize_all(network: nn.Module, images: Pixels) -> Pixels:
    """Return images ``(N, H, W, 3)`` in the network's style."""
    return np.stack([stylize(network, image) for image in images])


@torch.no_grad()
def contrast_changes(network: nn.Module, images: torch.Tensor, *, margin: int = 0) -> dict[float, float]:
    """Measure, for each factor c, how much the output changes when the contrast of the input is multiplied by c.

    An image x ``(3, H, W)`` with mean m (one number per channel) becomes ``m + c (x - m)``; its change is
    ``|f(m + c (x - m)) - f(x)| / |f(x) - mean of f(x)|``, Euclidean norms over the image: 0 where the output stays the
    same, 1 where it moves as far as its own contrast goes. The mean over `images`, ``(N, 3, H, W)`` in [-1, 1], whose
    outermost `margin` pixels are padding and not looked at.
    """
    network.eval()
    mean = images.mean(dim=(2, 3), keepdim=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = network(x)
        return y[..., margin : y.shape[2] - margin, margin : y.shape[3] - margin]

    output = run(images)
    scale = _length(output - output.mean(dim=(2, 3), keepdim=True))
    return {
        factor: (_length(run(mean + factor * (images - mean)) - output) / scale.clamp(min=1e-12)).mean().item()
        for factor in CONTRAST_FACTORS
    }


def _length(images: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each image, ``(N,)``."""
    return images.float().square().sum(dim=(1, 2, 3)).sqrt()


def save_style_model(network: nn.Module, norm: NormConfig, path: Path) -> None:
    """Write the weights, and which norm they belong to, into a file that `load_style_model` reads."""
    described = {"name": norm.name, "options": dict(norm.options)}
    try:
        write_tensors({"format": "normbench-style-1", "norm": described, "model": network.state_dict()}, path)
    except OSError as error:
        raise DataError(f"{path}: the model cannot be written: {first_line(error)}") from error


def load_style_model(path: Path, norm: AnyNormFactory | None = None) -> tuple[nn.Module, str]:
    """Return the network in a file that `save_style_model` wrote, in evaluation mode, and its norm's name.

    A norm of a user's own must be given, because the file names it and does not hold it.

    Raises:
        DataError: there is no such file, or it is another or a damaged one.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such model; `normbench stylize train` makes one")
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        name = saved["norm"]["name"]
        if norm is None and is_own(name):
            raise DataError(f"{path}: its norm {name} is of its own: load it with normbench.load_model")
        norm = norm or MODELS[STYLENET].family.make(name, **saved["norm"]["options"])
        network = build_model(STYLENET, norm=norm)
        network.load_state_dict(saved["model"])
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file leads to; torch's own advice would be to trust it
        raise DataError(f"{path}: not a model of `normbench stylize` ({type(error).__name__})") from None
    return network.eval(), norm.name
