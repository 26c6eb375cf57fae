"""What a style-transfer experiment is: frozen, validated models of a config file such as configs/style.yaml."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from normbench.config.load import read_settings
from normbench.config.messages import Sections, explain, located
from normbench.config.schema import NAME_PATTERN, Device, NormConfig, NormEntry, Seeds, spell_out_lr
from normbench.errors import ConfigError, NormBenchError
from normbench.models import MODELS

STYLENET = "stylenet"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StyleTrainConfig(_Frozen):
    """How the network is trained, with Adam; the loss is the weighted sum of content, style and total variation."""

    steps: int = Field(default=2000, ge=1, strict=True)
    batch_size: int = Field(default=16, ge=1, strict=True)
    learning_rate: float = Field(default=1e-3, gt=0)
    """Written `lr` or `learning_rate`."""
    content_weight: float = Field(default=1.0, ge=0)
    style_weight: float = Field(default=1.0, ge=0)
    total_variation_weight: float = Field(default=0.3, ge=0)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA, fp32 elsewhere. Losses are computed in fp32."""
    engine: Literal["auto", "eager", "graph"] = "auto"
    """`auto`: one CUDA graph of the whole step on CUDA, eager otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        return spell_out_lr(data)


class _Pictures(_Frozen):
    """The images of a training."""

    style: StrictStr = "mosaic"
    """A file, or one of the built-in mosaic, waves and strokes."""
    content: StrictStr = "cifar10"
    """A data set, or a folder of images."""
    num_content: int = Field(default=5000, ge=1, strict=True)
    """Of the content images, the first so many take part."""
    image_size: int = Field(default=64, ge=16, multiple_of=4, strict=True)
    """Height and width that content images are scaled to."""
    style_size: int = Field(default=128, ge=16, strict=True)
    """Height and width that the style image is cut and scaled to."""
    features: StrictStr = "resnet9"
    """The feature network: ``resnet9`` (trained once and kept), ``vgg16``, or the folder of a resnet9 run."""
    vgg16_weights: StrictStr | None = None
    """A file with torchvision's weights, for ``features: vgg16``; if absent they are downloaded."""
    train: StyleTrainConfig = StyleTrainConfig()


class StyleExperiment(_Pictures):
    """One comparison: a network is trained with every norm and every seed under the same protocol."""

    name: StrictStr = Field(pattern=NAME_PATTERN)
    norms: tuple[NormEntry, ...] = Field(min_length=1)
    seeds: Seeds = Field(default=(0,), min_length=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    baseline: StrictStr | None = None
    """The norm (its label or name) that differences refer to; bn where it takes part."""


class StyleRunConfig(_Pictures):
    """One run with nothing left to decide: what `config.yaml` holds and the run's id is a hash of."""

    norm: NormEntry
    seed: int = Field(ge=0)
    device: Device

    @property
    def label(self) -> str:
        """How tables and legends call the norm."""
        return self.norm.label or self.norm.name

    @property
    def run_id(self) -> str:
        """The run's folder name: ``in-stylenet-s0-3f2a9c1b``."""
        content = self.model_dump(mode="json")
        del content["norm"]["label"]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9._+-]", "_", self.norm.name.lower())
        return f"{name}-{STYLENET}-s{self.seed}-{digest}"


_SECTIONS: Sections = {"": StyleExperiment, "norms": NormConfig, "train": StyleTrainConfig}


def load_style_config(
    file: Path | None, *, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> StyleExperiment:
    """Read `file`, lay `settings` and `flags` over it, and validate; every norm is built once without memory.

    Raises:
        ConfigError: the file cannot be read or a value is wrong; all problems are listed, one a line.
    """
    data, origins = read_settings(file, settings, flags or {}, default_name="stylize")
    for singular, plural in (("norm", "norms"), ("seed", "seeds")):  # a run's own config is an experiment of one run
        if singular in data and plural not in data:
            data[plural] = [data.pop(singular)]
    try:
        experiment = StyleExperiment.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origins, sections=_SECTIONS))) from None
    norms = []
    for position, norm in enumerate(experiment.norms):
        try:
            norms.append(_resolve_norm(norm))
        except NormBenchError as error:
            raise ConfigError(located(origins, ("norms", position, "name"), str(error))) from None
    labels = [norm.label for norm in norms]
    for position, label in enumerate(labels):
        if label in labels[:position]:
            message = f"two norms are called {label!r}; give each its own label"
            raise ConfigError(located(origins, ("norms", position), message))
    return experiment.model_copy(update={"norms": tuple(norms)})


def _resolve_norm(norm: NormConfig) -> NormConfig:
    """Fill in options and label; raises where the norm does not exist, or has training settings of its own."""
    if norm.train:
        raise ConfigError(f"norm {norm.name!r}: style transfer trains all norms alike; `train` has no place here")
    family = MODELS[STYLENET].family
    factory = family.make(norm.name, **norm.options)
    options = {name: option.default for name, option in factory.norm.options.items()} | dict(norm.options)
    given = ", ".join(f"{name}={value}" for name, value in norm.options.items())
    label = f"{factory.norm.label} ({given})" if given else factory.norm.label
    return norm.model_copy(update={"label": norm.label or label[:40], "options": options})


def run_configs(experiment: StyleExperiment, device: Device) -> list[StyleRunConfig]:
    """Return the runs, seed-major: all norms of the first seed come first."""
    shared = experiment.model_dump(exclude={"name", "norms", "seeds", "device", "baseline"})
    return [
        StyleRunConfig.model_validate({**shared, "norm": norm, "seed": seed, "device": device})
        for seed in experiment.seeds
        for norm in experiment.norms
    ]
