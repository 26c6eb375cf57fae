"""Frozen, validated models of what every config file can say, and of what one that compares classifiers says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_serializer,
    model_validator,
)

from normbench.config.bounds import MAX_SEEDS
from normbench.config.probes import ProbesEntry
from normbench.config.tuning import TuneConfig
from normbench.own_code import Source

Value = StrictBool | StrictInt | StrictFloat | StrictStr | None
Options = Mapping[StrictStr, Value]
Device = Literal["cpu", "cuda", "mps"]

DEFAULT_BASELINE = "bn"
"""The norm that others are compared with where none is named and it takes part."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._+-]{0,63}$"


class Frozen(BaseModel):
    """A model whose values cannot be changed, without keys that it does not name, of finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def _name_only(value: object) -> object:
    """Let ``norm: gn`` stand for ``norm: {name: gn}``."""
    return {"name": value} if isinstance(value, str) else value


def _count_or_list(value: object) -> object:
    """Let ``seeds: 3`` stand for ``seeds: [0, 1, 2]``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        if value > MAX_SEEDS:
            raise ValueError(f"{value} is not allowed: at most {MAX_SEEDS:,} seeds")
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


class Code(Frozen):
    """Which file of a user's own a norm or network is made of; its text travels with it, and is not written with it."""

    file: StrictStr = Field(pattern=r"^[^/\\]+\.py$")
    """The name of the file, and of its copy in the run's folder."""
    sha256: StrictStr = Field(pattern="^[0-9a-f]{64}$")
    """Of its text; so a changed file makes another run."""
    _source: Source | None = PrivateAttr(None)

    @classmethod
    def of(cls, source: Source) -> Self:
        """Return the code that `source` is, with its text."""
        code = cls(file=source.file, sha256=source.sha256)
        code._source = source
        return code

    @property
    def source(self) -> Source | None:
        """The text; None in a config that was read from a file."""
        return self._source


class Named(Frozen):
    """Something by its key in a registry, or of a user's own as ``file.py:name`` or ``package.module:name``."""

    name: StrictStr
    options: Options = {}
    code: Code | None = None
    """Which file it is made of; of a user's own only."""

    @model_serializer(mode="wrap")
    def _leave_out_code(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write nothing of code where there is none: run ids are hashes of what is written."""
        data: dict[str, Any] = handler(self)
        if data.get("code") is None:
            data.pop("code", None)
        return data

    def portable(self) -> dict[str, Any]:
        """Return it as a mapping that still has the text of its code, as `model_dump` has not."""
        return self.model_dump() | ({} if self.code is None else {"code": self.code})

    @property
    def identity(self) -> dict[str, Any]:
        """What it computes: name, options and code."""
        return self.model_dump(mode="json", include={"name", "options", "code"})


class NormConfig(Named):
    """A norm to compare: its key in the registry, options, and how tables call it."""

    name: StrictStr
    options: Options = {}
    label: StrictStr | None = Field(default=None, min_length=1, max_length=40)
    """How tables and legends call it; if absent, the registry's label with the options given here."""
    train: Mapping[StrictStr, Any] = {}
    """Training settings of this norm alone (a learning rate tuned for it, say); they override the experiment's."""


class ModelConfig(Named):
    """The network that hosts the norms."""

    name: StrictStr = "norm_resnet"
    options: Options = {}


class ImageFile(Frozen):
    """What an ``.npz`` of a user's own holds; where it is is not written."""

    sha256: StrictStr = Field(pattern="^[0-9a-f]{64}$")
    """Of the file; so other images make another run."""
    num_classes: int = Field(ge=1, le=100_000, strict=True)
    image_size: int = Field(ge=8, le=96, strict=True)
    """Height and width."""
    num_train: int = Field(ge=1, strict=True)
    """Training images."""
    _path: Path | None = PrivateAttr(None)

    def at(self, path: Path) -> Self:
        """Return it with the place where the file was found."""
        found = self.model_copy()
        found._path = path
        return found

    @property
    def path(self) -> Path | None:
        """Where the file is; None in a config that was read from a file."""
        return self._path


class DatasetConfig(Frozen):
    """The images: ``cifar10``, ``cifar100``, the built-in ``synthetic``, or an ``.npz`` of a user's own."""

    name: StrictStr = "cifar10"
    options: Options = {}
    images: ImageFile | None = None
    """What the file holds; of a user's own only."""

    @model_serializer(mode="wrap")
    def _leave_out_images(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write nothing of a file where there is none: run ids are hashes of what is written."""
        data: dict[str, Any] = handler(self)
        if data.get("images") is None:
            data.pop("images", None)
        return data

    def portable(self) -> dict[str, Any]:
        """Return it as a mapping that still knows where the file is, as `model_dump` does not."""
        return self.model_dump() | ({} if self.images is None else {"images": self.images})


class LookaheadConfig(Frozen):
    """Slow weights, which move towards the trained ones after every few steps, and replace them then.

    Lookahead (Zhang et al. 2019, arXiv:1907.08610) is `power` 0 with `decay` 1 - alpha. The defaults are those of
    airbench (Jordan 2024, arXiv:2404.00498), where the slow weights follow at once at first and slowly at the end.
    """

    every: int = Field(default=5, ge=1, strict=True)
    """Steps from one replacement to the next; the last step of the training is one."""
    decay: float = Field(default=0.77, ge=0, lt=1)
    """The share of the slow weights that stays, at the end of the training."""
    power: float = Field(default=3.0, ge=0)
    """The share grows with this power of the training done."""


class TrainConfig(Frozen):
    """How a network is trained; the defaults are the tutorial's protocol."""

    epochs: int = Field(default=5, ge=1, strict=True)
    batch_size: int = Field(default=64, ge=1, strict=True)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Written `lr` or `learning_rate`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """The momentum of SGD, with Nesterov's correction; Adam and AdamW do not use it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to parameters of two or more dimensions; scales, shifts and biases are never decayed."""
    scale_rate: float = Field(default=1.0, ge=0)
    """A factor of the learning rate of the norms' scales; 0 leaves them at what they start from."""
    shift_rate: float = Field(default=1.0, ge=0)
    """A factor of the learning rate of the norms' shifts."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """`one_cycle`: linear from 0 to the learning rate, then linear to 0. `cosine`: half a cosine to 0."""
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of training over which the rate rises linearly from 0; if absent, 0.3 for one_cycle and 0 otherwise."""
    lookahead: LookaheadConfig | None = None
    """If given (`{}` for the defaults): the weights are replaced by slow ones that follow them."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "crop_flip", "shift_alternate"] = "none"
    """`crop_flip`: a random shift by up to 4 pixels (reflected border) and a random horizontal flip. `shift_alternate`:
    a random shift by up to 2 pixels, and each image mirrored in every other epoch (arXiv:2404.00498)."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA and on a CPU with AMX, fp32 elsewhere."""
    engine: Literal["auto", "eager", "graph", "compile"] = "auto"
    """`auto`: one CUDA graph of the whole step on CUDA, eager otherwise."""
    micro_batch: int | None = Field(default=None, ge=1, strict=True)
    """If given, a batch is trained on in parts of so many images, whose gradients add up to one optimizer step: norms
    see the part, the optimizer the whole batch."""
    sync_statistics: StrictBool = False
    """Whether BN takes the statistics of the whole batch although it is trained on in parts."""
    reproducible: StrictBool = True
    """Whether another run gives the same bits, on the same GPU and versions. Without, each process has cuDNN time its
    algorithms and take the fastest (docs/performance.md). On a CPU it makes no difference."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        return spell_out_lr(data)


PARTS_OFF: Mapping[str, Any] = {"micro_batch": None, "sync_statistics": False}
"""The settings of a training on whole batches, which ids of runs and times do not hold."""
LATER_OFF: Mapping[str, Any] = {**PARTS_OFF, "lookahead": None, "scale_rate": 1.0, "shift_rate": 1.0}
"""Settings that came when runs without them had been recorded, as those have them: their ids do not hold these."""


def spell_out_lr(data: Any) -> Any:
    """Let ``lr`` stand for ``learning_rate``."""
    if isinstance(data, Mapping) and "lr" in data:
        if "learning_rate" in data:
            raise ValueError("lr and learning_rate are the same setting; give one of them")
        return {("learning_rate" if key == "lr" else key): value for key, value in data.items()}
    return data


def without_probes(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out `probes` and `held` where there are none: run ids are hashes of what is written."""
    return {key: value for key, value in data.items() if key not in ("probes", "held") or value is not None}


class LearningRateScaling(Frozen):
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


class BatchOneConfig(Frozen):
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


class AnalysisConfig(Frozen):
    """How verdicts are given (docs/statistics.md); it is written with the experiment before its first run."""

    family: Literal["setting", "sweep"] = "setting"
    """Among which comparisons the 5 % of errors are shared: those of one setting, or all of a sweep."""
    spread: Literal["own", "borrowed"] = "borrowed"
    """Whether the cells of a sweep borrow from each other what their spread is; a single table never does."""


class EvaluateConfig(Frozen):
    """What is measured of each trained network before its weights go (docs/evaluation.md)."""

    batch_sizes: tuple[Annotated[int, Field(ge=1, le=100_000, strict=True)], ...] = (1, 8, 64, 512)
    """Batches whose own statistics the norms take, as in training."""
    reestimate_batches: int = Field(20, ge=0, le=100_000, strict=True)
    """Batches of 512 training images over which running statistics are averaged anew; 0: they are not."""
    average_share: float = Field(0.25, ge=0, le=1)
    """The share of the last epochs over whose ends the weights are averaged; 0: they are not."""
    views: Literal[1, 2, 6] = 1
    """Views of each image over which logits are averaged: 2, it and its mirror image; 6, also both shifted by a pixel
    up and to the left, and down and to the right. That accuracy stands beside the plain one."""
    corruptions: Literal["none", "generated", "official"] = "none"
    """`generated`: 15 kinds in 5 severities, drawn on the device; `official`: from the files of CIFAR-10-C."""
    corruption_seed: int = Field(0, ge=0, strict=True)

    def num_averaged(self, num_epochs: int) -> int:
        """Return over how many of the last epochs weights are averaged."""
        return ceil(self.average_share * num_epochs)


SourceOfVariance = Literal["initialization", "order", "augmentation"]
"""What a seed decides."""
Held = Mapping[SourceOfVariance, Annotated[int, Field(ge=0, strict=True)]]
NormEntry = Annotated[NormConfig, BeforeValidator(_name_only)]
ModelEntry = Annotated[ModelConfig, BeforeValidator(_name_only)]
DatasetEntry = Annotated[DatasetConfig, BeforeValidator(_name_only)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], BeforeValidator(_count_or_list)]


class BaseExperimentConfig(Frozen):
    """The part of an experiment that is the same for every task: which norms and seeds, where, and against what."""

    task: str
    name: StrictStr = Field(pattern=NAME_PATTERN)
    """The experiment's folder under runs/; the config file's name if absent."""
    norms: tuple[NormEntry, ...] = Field(min_length=1)
    seeds: Seeds = Field((0,), min_length=1)
    """A number of seeds, or a list. Image order and augmentation depend on the seed and never on the norm."""
    grid: Annotated[
        Mapping[StrictStr, Annotated[tuple[Any, ...], Field(min_length=1)]], BeforeValidator(flat_grid)
    ] = {}
    """Values to try for any other field, by dotted path; all combinations are run. Norms stay in `norms`."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    baseline: StrictStr | None = None
    """The norm (its label or name) that differences and relative times refer to; bn where it takes part."""
    analysis: AnalysisConfig = AnalysisConfig()

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _accept_singular(cls, data: Any) -> Any:
        """Let a run's own config (``norm:``, ``seed:``) be an experiment of one run."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        for singular, plural in (("norm", "norms"), ("seed", "seeds")):
            if singular in data:
                if plural in data:
                    raise ValueError(f"{singular} and {plural} say the same thing; give one of them")
                data[plural] = [data.pop(singular)]
        return data


class BaseRunConfig(Frozen):
    """The part of a run's config that is the same for every task. Nothing in a run's config is left to decide.

    It is what `config.yaml` holds, and the run's id is a hash of it.
    """

    task: str
    norm: NormEntry
    seed: int = Field(ge=0)
    device: Device
    train: Any
    """The task's training settings; all have batch_size, learning_rate, precision, engine and reproducible."""

    @property
    def label(self) -> str:
        """The norm as tables and legends call it."""
        return self.norm.label or self.norm.name

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """The length of the training: in epochs, or in steps where the task has no epochs."""
        raise NotImplementedError

    @property
    def run_id(self) -> str:
        """The name of the run's folder: it ends in a hash of all that decides the outcome."""
        raise NotImplementedError

    @property
    def timing_fields(self) -> dict[str, Any]:
        """Everything that the time of a training step depends on, but for the machine: no learning rate, no seed."""
        raise NotImplementedError

    def _timed_of_train(self, *names: str) -> dict[str, Any]:
        """Return the training settings of these names, and whether bits may differ if they may."""
        if not self.train.reproducible:
            names += ("reproducible",)
        names += tuple(name for name, off in LATER_OFF.items() if getattr(self.train, name, off) != off)
        found: dict[str, Any] = self.train.model_dump(include=set(names))
        return found

    def _named(self, parts: Sequence[str], hashed: Mapping[str, Any]) -> str:
        """Return ``gn-norm_resnet-bs64-s0-3f2a9c1b``: at most 64 characters of ``[a-z0-9._+-]``."""
        digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:8]
        tail = "".join(f"-{part}" for part in (*parts, f"s{self.seed}", digest))
        names = (name.rpartition(":")[2] for name in (self.norm.name, self.model_name))
        head = re.sub(r"[^a-z0-9._+-]", "_", "-".join(names).lower())
        return head[: 64 - len(tail)] + tail


class ExperimentConfig(BaseExperimentConfig):
    """One comparison of classifiers: a network is trained with every norm and every seed under the same protocol."""

    task: Literal["classification"] = "classification"
    model: ModelEntry = ModelConfig()
    dataset: DatasetEntry = DatasetConfig()
    train: TrainConfig = TrainConfig()
    lr_scaling: Annotated[LearningRateScaling, BeforeValidator(_rule_only)] = LearningRateScaling()
    batch_one: BatchOneConfig | None = None
    """If given (`{}` for the defaults): how each norm fares at batch size 1."""
    tune: TuneConfig | None = None
    """If given: norms are compared at one learning rate for all, and each at its own, chosen by these rules."""
    sources: tuple[SourceOfVariance, ...] = ()
    """What is also varied from seed to seed alone, all else as with the first seed (docs/statistics.md)."""
    held: Held | None = None
    evaluate: EvaluateConfig | None = None
    """If given (`{}` for the defaults): more than accuracy, measured of each network once it is trained."""
    probe: Literal["batch_one", "variance"] | None = None
    """Stands in the config of a probe's run, as `held` does; it can be run again like any other."""
    probes: ProbesEntry | None = None
    """What is measured during training beside the loss; nothing if absent. Training is the same, bit for bit."""

    @model_serializer(mode="wrap")
    def _leave_out_probes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_probes(handler(self))

    @model_validator(mode="after")
    def _is_tuned_alone(self) -> Self:
        """Refuse what would set learning rates beside `tune`."""
        if self.tune is None:
            return self
        if self.grid:
            raise ValueError("tune and grid: the rates are chosen for one setting; write a config for each")
        if self.lr_scaling.rule != "none":
            raise ValueError("tune and lr_scaling: tune tries the rates themselves; leave lr_scaling out")
        if not self.tune.shared_rate and (self.batch_one is not None or self.sources):
            raise ValueError("tune.shared_rate is false: batch_one and sources are measured at the one shared rate")
        for norm in self.norms:
            if "learning_rate" in spell_out_lr(norm.train):
                raise ValueError(f"tune chooses each norm's learning rate, and {norm.name} sets its own")
        return self

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        return self.model.name

    def train_for(self, norm: NormConfig) -> TrainConfig:
        """Return the training settings of one norm: the experiment's, overridden by its own; the rate scaled."""
        train = self.train
        if norm.train:
            own = TrainConfig.model_validate(norm.train).model_dump(exclude_unset=True)
            train = TrainConfig.model_validate({**train.model_dump(), **own})
        rate = self.lr_scaling.learning_rate(train.learning_rate, train.batch_size)
        return train.model_copy(update={"learning_rate": rate})


class RunConfig(BaseRunConfig):
    """One training of a classifier."""

    task: Literal["classification"] = "classification"
    model: ModelEntry
    dataset: DatasetEntry
    train: TrainConfig
    probe: Literal["batch_one", "variance"] | None = None
    """The purpose of a run that is no part of the comparison itself."""
    held: Held | None = None
    """What has another seed than the run's own, with that seed."""
    probes: ProbesEntry | None = None

    @model_serializer(mode="wrap")
    def _leave_out_probes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_probes(handler(self))

    @property
    def model_name(self) -> str:
        """The key of the network in the registry of models."""
        return self.model.name

    def seed_of(self, source: SourceOfVariance) -> int:
        """Return the seed that decides the initialization, the order of the images, or their augmentation."""
        return (self.held or {}).get(source, self.seed)

    @property
    def length(self) -> int:
        """The length of the training in epochs."""
        return self.train.epochs

    @property
    def run_id(self) -> str:
        """The name of the run's folder; a label, and where a setting was written, do not enter its hash."""
        content = self.model_dump(mode="json")
        del content["task"], content["norm"]["label"], content["norm"]["train"]  # the latter is in `train` already
        if self.probe is None:
            del content["probe"]
        if self.train.reproducible:
            del content["train"]["reproducible"]  # of before it could be chosen
        for name, value in LATER_OFF.items():  # likewise
            if content["train"][name] == value:
                del content["train"][name]
        return self._named([f"bs{self.train.batch_size}"], content)

    @property
    def timing_fields(self) -> dict[str, Any]:
        """Everything that the time of a training step depends on, but for the machine: no learning rate, no seed."""
        return {
            "norm": self.norm.identity,
            "model": self.model.model_dump(mode="json"),
            "dataset": self.dataset.model_dump(mode="json"),
            "train": self._timed_of_train("batch_size", "optimizer", "augment", "precision", "engine"),
            "device": self.device,
        }
