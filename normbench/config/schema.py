"""What an experiment is: frozen, validated models of a config file. `loader.py` reads the files."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

Value = StrictBool | StrictInt | StrictFloat | StrictStr | None
Options = Mapping[StrictStr, Value]
Device = Literal["cpu", "cuda", "mps"]

NAME_PATTERN = r"^[a-z0-9][a-z0-9._+-]{0,63}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _name_only(value: object) -> object:
    """Let ``norm: gn`` stand for ``norm: {name: gn}``."""
    return {"name": value} if isinstance(value, str) else value


def _count_or_list(value: object) -> object:
    """Let ``seeds: 3`` stand for ``seeds: [0, 1, 2]``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    return value


def _rule_only(value: object) -> object:
    """Let ``lr_scaling: sqrt`` stand for ``lr_scaling: {rule: sqrt}``."""
    return {"rule": value} if isinstance(value, str) else value


def flat_grid(value: object) -> object:
    """Let ``grid: {train: {lr: [...]}}`` stand for ``grid: {train.lr: [...]}``."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, object] = {}
    for key, inner in value.items():
        below = flat_grid(inner)
        flat.update({f"{key}.{rest}": v for rest, v in below.items()} if isinstance(below, Mapping) else {key: inner})
    return flat


class NormConfig(_Frozen):
    """A norm to compare: its key in the registry, options, and how tables call it."""

    name: StrictStr
    options: Options = {}
    label: StrictStr | None = Field(default=None, min_length=1, max_length=40)
    """How tables and legends call it; if absent, the registry's label with the options given here."""
    train: Mapping[StrictStr, Any] = {}
    """Training settings of this norm alone (a learning rate tuned for it, say); they override the experiment's."""


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

    epochs: int = Field(default=5, ge=1, strict=True)
    batch_size: int = Field(default=64, ge=1, strict=True)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Written `lr` or `learning_rate`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD, with Nesterov's correction; Adam and AdamW do not use it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to parameters of two or more dimensions; scales, shifts and biases are never decayed."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """`one_cycle`: linear from 0 to the learning rate, then linear to 0. `cosine`: half a cosine to 0."""
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of training over which the rate rises linearly from 0; if absent, 0.3 for one_cycle and 0 otherwise."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "crop_flip"] = "none"
    """`crop_flip`: a random shift by up to 4 pixels (reflected border) and a random horizontal flip."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA, fp32 elsewhere."""
    engine: Literal["auto", "eager", "graph", "compile"] = "auto"
    """`auto`: one CUDA graph of the whole step on CUDA, eager otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        return spell_out_lr(data)


def spell_out_lr(data: Any) -> Any:
    """Let ``lr`` stand for ``learning_rate``."""
    if isinstance(data, Mapping) and "lr" in data:
        if "learning_rate" in data:
            raise ValueError("lr and learning_rate are the same setting; give one of them")
        return {("learning_rate" if key == "lr" else key): value for key, value in data.items()}
    return data


class LearningRateScaling(_Frozen):
    """How the learning rate follows the batch size; each run's config holds the rate that comes out."""

    rule: Literal["none", "linear", "sqrt"] = "none"
    """With k = batch size / reference: the rate times k (Goyal et al. 2017, arXiv:1706.02677, for SGD) or times the
    square root of k (Malladi et al. 2022, arXiv:2205.10287, for Adam)."""
    reference_batch_size: int = Field(default=64, ge=1, strict=True)
    """The batch size at which the rate is the one given."""

    def learning_rate(self, learning_rate: float, batch_size: int) -> float:
        """Return the rate at `batch_size` where the reference has `learning_rate`."""
        if self.rule == "none":
            return learning_rate
        factor = batch_size / self.reference_batch_size
        return learning_rate * (factor if self.rule == "linear" else sqrt(factor))


class BatchOneConfig(_Frozen):
    """The probe at batch size 1: a short run of each norm, and of no norm, for each seed (docs/batch_one.md)."""

    steps: int = Field(2000, ge=1, strict=True)
    """Optimizer steps, one image each, every image once."""
    learning_rate: float | None = Field(None, gt=0)
    """The same for all norms; if absent, the experiment's, scaled from its batch size by the square root (Adam, AdamW)
    or linearly (SGD). Written `lr` or `learning_rate`."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        return spell_out_lr(data)


NormEntry = Annotated[NormConfig, BeforeValidator(_name_only)]
ModelEntry = Annotated[ModelConfig, BeforeValidator(_name_only)]
DatasetEntry = Annotated[DatasetConfig, BeforeValidator(_name_only)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], BeforeValidator(_count_or_list)]


class ExperimentConfig(_Frozen):
    """One comparison: every norm is trained with every seed under the same protocol."""

    name: StrictStr = Field(pattern=NAME_PATTERN)
    """The experiment's folder under runs/; the config file's name if absent."""
    norms: tuple[NormEntry, ...] = Field(min_length=1)
    seeds: Seeds = Field((0,), min_length=1)
    """A number of seeds, or a list. Image order and augmentation depend on the seed and never on the norm."""
    model: ModelEntry = ModelConfig()
    dataset: DatasetEntry = DatasetConfig()
    train: TrainConfig = TrainConfig()
    lr_scaling: Annotated[LearningRateScaling, BeforeValidator(_rule_only)] = LearningRateScaling()
    grid: Annotated[
        Mapping[StrictStr, Annotated[tuple[Any, ...], Field(min_length=1)]], BeforeValidator(flat_grid)
    ] = {}
    """Values to try for any other field, by dotted path; all combinations are run. Norms stay in `norms`."""
    batch_one: BatchOneConfig | None = None
    """If given (`{}` for the defaults): how each norm fares at batch size 1."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    baseline: StrictStr | None = None
    """The norm (its label or name) that differences and relative times refer to; bn where it takes part."""
    probe: Literal["batch_one"] | None = None
    """Stands in the config of a probe's run, which can be run again like any other."""

    @model_validator(mode="before")
    @classmethod
    def _accept_singular(cls, data: Any) -> Any:
        """Let a run's own config (``norm:``, ``seed:``) be an experiment of one run."""
        if not isinstance(data, Mapping):
            return data
        if "style" in data:
            raise ValueError("this is a style-transfer config: run it with `normbench stylize compare`")
        data = dict(data)
        for singular, plural in (("norm", "norms"), ("seed", "seeds")):
            if singular in data:
                if plural in data:
                    raise ValueError(f"{singular} and {plural} say the same thing; give one of them")
                data[plural] = [data.pop(singular)]
        return data


class RunConfig(_Frozen):
    """One run with nothing left to decide: what `config.yaml` holds and the run's id is a hash of."""

    norm: NormEntry
    model: ModelEntry
    dataset: DatasetEntry
    train: TrainConfig
    seed: int = Field(ge=0)
    device: Device
    probe: Literal["batch_one"] | None = None
    """What the run is for if it is no part of the comparison itself."""

    @property
    def label(self) -> str:
        """How tables and legends call the norm."""
        return self.norm.label or self.norm.name
