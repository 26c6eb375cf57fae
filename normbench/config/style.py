"""Frozen, validated models of a config file that compares norms in style transfer, such as configs/style.yaml."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator

from normbench.config.schema import BaseExperimentConfig, BaseRunConfig, Frozen, NormConfig, spell_out_lr

STYLENET = "stylenet"
"""The network of style transfer, by its key in the registry of models."""


class StyleTrainConfig(Frozen):
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
    reproducible: StrictBool = True
    """As in the training of classifiers."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        return spell_out_lr(data)


class _Pictures(Frozen):
    """The images of a training."""

    style: StrictStr = "mosaic"
    """A file, or one of the built-in mosaic, waves and strokes."""
    content: StrictStr = "cifar10"
    """A data set, or a folder of images."""
    num_content: int = Field(default=5000, ge=1, strict=True)
    """How many content images take part, the first ones."""
    image_size: int = Field(default=64, ge=16, multiple_of=4, strict=True)
    """Height and width that content images are scaled to."""
    style_size: int = Field(default=128, ge=16, strict=True)
    """Height and width that the style image is cut and scaled to."""
    features: StrictStr = "resnet9"
    """The feature network: ``resnet9`` (trained once and kept), ``vgg16``, or the folder of a resnet9 run."""
    vgg16_weights: StrictStr | None = None
    """A file with torchvision's weights, for ``features: vgg16``; if absent they are downloaded."""
    train: StyleTrainConfig = StyleTrainConfig()


class StyleExperimentConfig(_Pictures, BaseExperimentConfig):
    """One comparison in style transfer: a network is trained with every norm and every seed under one protocol."""

    task: Literal["style_transfer"] = "style_transfer"

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        return STYLENET

    def train_for(self, norm: NormConfig) -> StyleTrainConfig:
        """Return the training settings of one norm: the experiment's, overridden by its own."""
        if not norm.train:
            return self.train
        own = StyleTrainConfig.model_validate(norm.train).model_dump(exclude_unset=True)
        return StyleTrainConfig.model_validate({**self.train.model_dump(), **own})


class StyleRunConfig(_Pictures, BaseRunConfig):
    """One training of a style-transfer network."""

    task: Literal["style_transfer"] = "style_transfer"

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        return STYLENET

    @property
    def length(self) -> int:
        """The length of the training in steps."""
        return self.train.steps

    @property
    def run_id(self) -> str:
        """The name of the run's folder; a label, and where a setting was written, do not enter its hash."""
        content = self.model_dump(mode="json")
        del content["task"], content["norm"]["label"]
        if self.train.reproducible:
            del content["train"]["reproducible"]  # of before it could be chosen
        content["norm"]["train"] = {}  # it is in `train` already; older runs were hashed with the empty section
        return self._named([], content)

    @property
    def timing_fields(self) -> dict[str, Any]:
        """Everything that the time of a training step depends on, but for the machine: no learning rate, no seed."""
        return {
            "norm": self.norm.identity,
            **self.model_dump(mode="json", include={"features", "image_size", "content", "num_content"}),
            "train": self._timed_of_train("batch_size", "precision", "engine"),
            "device": self.device,
        }
