"""Every function that the parent process asks a training process to call, and the plain data that goes with it.

The parent imports this module and has no torch; the functions import what they need when they are called.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from normbench.config.schema import BaseRunConfig, EvaluateConfig, RunConfig
from normbench.errors import ConfigError
from normbench.models import Model
from normbench.norms import Norm
from normbench.own_code import Source, Target, module_source
from normbench.registry import load
from normbench.runs.evaluation_file import Evaluation
from normbench.runs.events import Pause, RunEvent
from normbench.runs.timing_file import SkippedNorm, TimedNorm
from normbench.tasks import TASKS
from normbench.worker.libraries import give_gpu_back

if TYPE_CHECKING:
    from normbench.worker.interface import WorkerTask


@dataclass(frozen=True)
class RunDraft:
    """A run whose device, precision and engine may still be ``auto``."""

    norm_position: int
    """The position of its norm in the experiment."""
    config: Mapping[str, Any]
    """The run's config, as the task's run config takes it."""
    point: str
    """The point of a grid, or the probe, that sets it apart from runs of the same norm and seed."""


@dataclass(frozen=True)
class OwnCode:
    """Code of a user's own that is to be executed and described."""

    kind: Literal["norm", "model"]
    target: Target
    source: Source | None
    """The text of a file; None for an installed module."""


@dataclass(frozen=True)
class Described:
    """What code of a user's own is."""

    entry: Norm | Model
    """As the catalogs have them, with the name of its code in place of the code."""
    source: Source


class DraftError(ConfigError):
    """A norm of the experiment cannot be built, or not where it is to be trained."""

    def __init__(self, norm_position: int, message: str) -> None:
        self.norm_position = norm_position
        super().__init__(message)


@dataclass(frozen=True)
class RunRequest:
    """One run to be trained, and where its files are."""

    config: BaseRunConfig
    folder: Path
    """The run's folder, for checkpoints and for files too large for a message."""
    data_dir: Path | None
    """Where CIFAR-10 is looked for first."""
    resume: bool
    """Whether the run goes on from its checkpoint."""
    keep_checkpoint: bool
    prerequisite: Path | None = None
    """The folder of the run that this one needs (`Task.prerequisite`)."""
    evaluate: EvaluateConfig | None = None
    """What is measured of the trained network beside the task's result."""
    runs_at_once: int = 1
    """How many runs its process trains at once, at most, this one among them."""


@dataclass(frozen=True)
class EvaluationRequest:
    """One completed run to be evaluated from its checkpoint."""

    folder: Path
    evaluate: EvaluateConfig
    data_dir: Path | None = None
    """Where CIFAR-10 is looked for first."""
    device: str | None = None
    """If absent, the one that the run was trained on."""
    trust_code: bool = False
    """Whether code of a user's own in the run's folder may be executed."""


@dataclass(frozen=True)
class TimingCandidate:
    """A configuration to time, and what its runs took."""

    config: BaseRunConfig
    peak_memory_mib: float
    train_seconds: float
    """Of runs that shared the device, their share."""
    num_steps: int
    prerequisite: Path | None = None
    """The folder of the run that its runs needed."""

    @property
    def step_seconds(self) -> float:
        """The mean time of the runs' steps."""
        return self.train_seconds / self.num_steps


@dataclass(frozen=True)
class TimingSchedule:
    """How thoroughly norms are timed."""

    num_rounds: int
    block_seconds: float


@dataclass(frozen=True)
class TimingResult:
    """Norms that were timed against each other, and those that could not be."""

    timed: tuple[TimedNorm, ...]
    skipped: tuple[SkippedNorm, ...]


def describe_own(wanted: Sequence[OwnCode]) -> list[Described]:
    """Execute code of a user's own and return what it is.

    Raises:
        ConfigError: it cannot be executed, or is no norm or network.
    """
    from normbench.models.own import own_model
    from normbench.norms.own import own_norm

    described = []
    for own in wanted:
        source = own.source or module_source(own.target)
        entry = (own_norm if own.kind == "norm" else own_model)(own.target, source)
        described.append(Described(replace(entry, build=str(own.target)), source))
    return described


def resolve_runs(drafts: Sequence[RunDraft]) -> list[BaseRunConfig]:
    """Return the configs of `drafts` with nothing left to decide; every norm is built and tried once in its network.

    Raises:
        DraftError: a norm cannot be built or does not fit the network.
        NormBenchError: a device, precision, engine or image does not exist here.
    """
    configs: list[BaseRunConfig] = []
    checked: set[str] = set()
    for draft in drafts:
        task = task_of(draft.config["task"])
        config = task.resolve(draft.config)
        facts = [draft.config.get(name) for name in ("model", "image_size", "probe")]
        norm = {**draft.config["norm"], "label": None, "train": None}  # neither changes the network
        facts += [draft.config.get("dataset", {}).get("images"), draft.config["train"]["batch_size"]]
        key = json.dumps([norm, *facts], default=repr)
        if key not in checked:
            try:
                task.check_model(config)
            except ConfigError as error:  # what is missing on the machine is no norm's fault
                raise DraftError(draft.norm_position, str(error)) from error
            checked.add(key)
        configs.append(config)
    if all(config.device != "cuda" for config in configs):
        give_gpu_back()
    gc.collect()
    gc.freeze()  # what trying networks has imported is never garbage, and every run looks for garbage before it starts
    return configs


def check_data(
    config: BaseRunConfig, data_dir: Path | None, prerequisite: Path | None, evaluate: EvaluateConfig | None = None
) -> None:
    """Load what the run reads, so that what is missing is said before anything is trained.

    Raises:
        DataError: a data set, image, feature network or file of corrupted images is missing or damaged.
    """
    task_of(config.task).check_data(config, data_dir, prerequisite)
    if isinstance(config, RunConfig) and evaluate is not None and evaluate.corruptions == "official":
        from normbench.worker import evaluating

        evaluating.check_corruptions(config, data_dir)


def worker_environments(devices: frozenset[str]) -> list[dict[str, str]]:
    """Return the environment variables of each worker that runs on `devices` can share.

    One worker per GPU where all runs train on GPUs, the first being this process; else this process alone.
    """
    from normbench.engine.device import visible_gpus

    others = visible_gpus()[1:] if devices == {"cuda"} else []
    return [{}, *({"CUDA_VISIBLE_DEVICES": name} for name in others)]


def is_device_usable() -> bool:
    """Return whether this process can still compute on its device: after a fault on a GPU it cannot, until it ends."""
    if "torch" not in sys.modules:
        return True
    from normbench.engine.device import is_usable

    return is_usable()


def computes_bf16_slowly() -> bool:
    """Return whether this machine's CPU has no instructions for bf16, as far as that is known."""
    from normbench.engine import device

    return device.computes_bf16_slowly()


def describe_device(device: str) -> dict[str, Any]:
    """Return what a time measured here holds for: names of the device and versions of its software."""
    from normbench.engine.device import describe

    return describe(device)  # type: ignore[arg-type]


def compile_kernels(requests: Sequence[RunRequest], later: Sequence[RunRequest]) -> float:
    """Compile the kernels of all these runs at once; see `normbench.worker.train_run.compile_ahead`.

    A run for which it fails compiles its own, or says what is wrong.
    """
    from normbench.worker.train_run import compile_ahead

    with suppress(Exception):
        return compile_ahead(requests, later)
    return 0.0


def train_run(request: RunRequest) -> Iterator[RunEvent | Pause]:
    """Train a run and yield its events; see `normbench.worker.train_run.train_run`."""
    from normbench.worker import train_run

    yield from train_run.train_run(request)


def evaluate_run(request: EvaluationRequest) -> Evaluation:
    """Evaluate the network of a completed run; see `normbench.worker.evaluating.evaluate_run`."""
    from normbench.worker import evaluating

    return evaluating.evaluate_run(request)


def time_norms(
    candidates: Sequence[TimingCandidate], schedule: TimingSchedule, data_dir: Path | None
) -> Iterator[float | TimingResult]:
    """Time the steps of all `candidates` in turn; see `normbench.worker.time_norms.time_setting`."""
    from normbench.worker.time_norms import time_setting

    yield from time_setting(candidates, schedule, data_dir)


def task_of(name: str) -> WorkerTask:
    """Return the task of that name as a training process knows it."""
    task: WorkerTask = load(TASKS[name].trainer)
    return task
