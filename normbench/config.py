"""What an experiment is: frozen, validated models of the YAML file, and the loader that says where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Value = StrictBool | StrictInt | StrictFloat | StrictStr | None
Options = Mapping[str, Value]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


def _name_only(value: object) -> object:
    """Let ``norm: gn`` stand for ``norm: {name: gn}``."""
    return {"name": value} if isinstance(value, str) else value


class NormConfig(_Frozen):
    """A norm to compare: its key in the registry, options, and how tables call it."""

    name: StrictStr
    options: Options = {}
    label: StrictStr | None = None
    """How tables and legends call it; the registry's label, with options that differ from the defaults, if absent."""
    train: Mapping[str, Any] = {}
    """Training settings of this norm alone (a learning rate tuned for it, say); overrides the experiment's `train`."""


class ModelConfig(_Frozen):
    """The network that hosts the norms."""

    name: StrictStr = "norm_resnet"
    options: Options = {}


class DatasetConfig(_Frozen):
    """The images: ``cifar10`` or the built-in ``synthetic``."""

    name: StrictStr = "cifar10"
    options: Options = {}


class TrainConfig(_Frozen):
    """How a network is trained; the defaults are the tutorial's protocol."""

    epochs: int = Field(5, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, alias="lr")
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD (with Nesterov's correction); Adam and AdamW do not use it."""
    weight_decay: float = Field(0.0, ge=0)
    """Applied to parameters of two or more dimensions; scales, shifts and biases are never decayed."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """`one_cycle`: linear from 0 to the learning rate, then linear to 0. `cosine`: half a cosine to 0."""
    warmup_fraction: float | None = Field(None, ge=0, lt=1)
    """Share of training over which the rate rises linearly from 0; if absent, 0.3 for one_cycle and 0 otherwise."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Literal["none", "crop_flip"] = "none"
    """`crop_flip`: a random shift by up to 4 pixels (reflected border) and a random horizontal flip."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA and on CPUs with bf16 arithmetic, fp32 otherwise."""
    engine: Literal["auto", "eager", "graph", "compile"] = "auto"
    """`auto`: a CUDA graph of the whole step on CUDA, eager otherwise."""


NormEntry = Annotated[NormConfig, BeforeValidator(_name_only)]
ModelEntry = Annotated[ModelConfig, BeforeValidator(_name_only)]
DatasetEntry = Annotated[DatasetConfig, BeforeValidator(_name_only)]


class RunConfig(_Frozen):
    """One run with nothing left to decide: what `config.yaml` holds and the run's id is a hash of."""

    norm: NormEntry
    model: ModelEntry
    dataset: DatasetEntry
    train: TrainConfig
    seed: int = Field(ge=0)
    device: Literal["cpu", "cuda", "mps"]

    @property
    def label(self) -> str:
        """How tables and legends call the norm."""
        return self.norm.label or self.norm.name
