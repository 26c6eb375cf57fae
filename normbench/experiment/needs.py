"""The memory that a run takes at the very least, by its config alone: what cannot fit is refused before it is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normbench.config.bounds import check_memory
from normbench.config.load import LoadedConfig
from normbench.config.messages import Key
from normbench.config.schema import ImageFile
from normbench.data import DATASETS
from normbench.errors import ConfigError

_PIXELS = 3 * 32 * 32
_BYTES_A_STEP = 84
"""Losses, as a tuple of Python numbers in a list, and the learning rate."""
_BYTES_A_WEIGHT = 16
"""Weight, gradient and Adam's two averages, in fp32."""


def check_needs(loaded: LoadedConfig, config: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a run of `config`, with the settings `train`, certainly cannot fit into this machine."""
    needs = _style(config, train) if "image_size" in config else _classifier(config, train)
    for path, what, num_bytes in needs:
        try:
            check_memory(num_bytes, what)
        except ConfigError as error:
            raise loaded.error(path, error) from None


def _classifier(config: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[tuple[Key, str, float]]:
    options, batch_size, epochs = config["dataset"]["options"], train["batch_size"], train["epochs"]
    own: ImageFile | None = config["dataset"].get("images")
    pixels = _PIXELS if own is None else 3 * own.image_size**2
    for name in ("num_train", "num_test"):
        yield ("dataset", "options", name), f"{name}={options[name]}", pixels * _number(options[name])
    yield ("train", "batch_size"), f"a batch of {batch_size} images", 4 * pixels * batch_size
    available = DATASETS[config["dataset"]["name"]].max_train if own is None else own.num_train
    num_images = _number(options["num_train"]) or available
    num_steps = epochs * -(-num_images // batch_size)
    yield ("train", "epochs"), f"a record of {num_steps} steps", _BYTES_A_STEP * num_steps
    model = config["model"]["options"]
    if "depth" in model:
        num_weights = 12 * _number(model["depth"]) * _number(model["d_model"]) ** 2
        what = f"a network of depth {model['depth']} and d_model {model['d_model']}"
        yield ("model", "options"), what, _BYTES_A_WEIGHT * num_weights


def _style(config: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[tuple[Key, str, float]]:
    size, batch_size, steps = config["image_size"], train["batch_size"], train["steps"]
    images = f"of {size} x {size} pixels"
    yield ("image_size",), f"an image {images}", 4 * 3 * size**2
    yield ("train", "batch_size"), f"a batch of {batch_size} images {images}", 4 * 3 * batch_size * size**2
    if config["content"] in DATASETS:  # of a folder, no more than there are
        yield ("num_content",), f"{config['num_content']} images {images}", 3 * config["num_content"] * size**2
    yield ("style_size",), f"style_size={config['style_size']}", 4 * 3 * config["style_size"] ** 2
    yield ("train", "steps"), f"a record of {steps} steps", _BYTES_A_STEP * steps


def _number(value: object) -> int:
    """Return a number as it is, and 0 for what is none, which is refused where it is used."""
    return max(value, 0) if isinstance(value, int) else 0
