"""A benchmark's results: rows with a time for each round, and what is derived from those. Nothing here needs torch.

runs/bench-train-<UTC time>/ or runs/bench-layers-<UTC time>/
  results.json    TrainResults or LayerResults: every time, and the machine and the settings
  table.md        the same as a table
  times.png, or bandwidth.png
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from normbench.errors import first_line
from normbench.report.stats import median_and_mad

PerRound = tuple[float, ...]
"""One value per round, in the order of the rounds."""

TUTORIAL = "tutorial"
"""Name of the variant that runs the tutorial's own loop."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


def median(values: Sequence[float]) -> float | None:
    """Return the median; None for no values."""
    spread = median_and_mad(values)
    return spread.median if spread else None


class Breakdown(_Frozen):
    """Shares of the parts of an eager step on the CPU in its time, which sum to 1 (docs/performance.md)."""

    convolution: float
    norm_and_activation: float
    optimizer: float
    other: float


class TrainRow(_Frozen):
    """One norm, trained at one batch size in one variant."""

    norm: str
    variant: str
    batch_size: int
    engine: str
    precision: str
    steps_per_epoch: int
    failure: str | None = None
    """The reason why it could not be measured, or not to the end."""
    note: str | None = None
    """A remark for the reader, such as why the steps ran eagerly."""
    norm_path: str | None = None
    """How the norm layers ran: ``fused``, or ``native: <why no kernel>``; None without such layers or where unknown."""
    startup_seconds: float | None = None
    """Seconds to the end of the first step: building, compilation, capture, warm-up."""
    peak_memory_mib: float | None = None
    """Peak device memory (MiB) that the case added; None on a CPU, where cases of one process cannot be told apart."""
    steps_per_block: int | None = None
    seconds_per_step: PerRound = ()
    """Of several trainings at once: their common time, shared out among their steps."""
    runs_at_once: int = 1
    """How many trainings, which differ in their seed, ran at once in the process."""
    epoch_seconds: PerRound = ()
    """Seconds of each whole epoch: order upload, every step, the short last one, and fetching the losses."""
    breakdown: Breakdown | None = None
    ratio_to_bn: float | None = None
    """Time of a step relative to bn's in the same variant: the median over rounds of the quotient within a round."""
    ratio_to_none: float | None = None
    """Time of a step relative to that without a norm, in the same variant, as for `ratio_to_bn`."""
    speedup_over_tutorial: float | None = None
    """Time of a step of the tutorial's loop with this norm, relative to this row's."""

    @property
    def variant_at_once(self) -> str:
        """The variant, and how many trainings ran at once if there were several."""
        return self.variant if self.runs_at_once == 1 else f"{self.variant}, {self.runs_at_once} at once"

    @property
    def has_samples(self) -> bool:
        """Whether anything was timed."""
        return bool(self.seconds_per_step or self.epoch_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ms_per_step(self) -> float | None:
        """The median over rounds, in milliseconds."""
        return median([1e3 * seconds for seconds in self.seconds_per_step])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ms_mad(self) -> float | None:
        """The median absolute deviation over rounds, in milliseconds."""
        spread = median_and_mad([1e3 * seconds for seconds in self.seconds_per_step])
        return spread.mad if spread else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def steps_per_second(self) -> float | None:
        """Steps a second, by the median time."""
        seconds = median(self.seconds_per_step)
        return 1 / seconds if seconds else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images_per_second(self) -> float | None:
        """Images a second, by the median time."""
        return None if self.steps_per_second is None else self.steps_per_second * self.batch_size


class LayerRow(_Frozen):
    """One norm with its activation, on one tensor ``(N, C, H, W)``."""

    norm: str
    way: Literal["fused", "native"]
    """The variant: as in training (fused where a kernel exists), or separate layers."""
    path: str
    """The implementation that ran: ``fused``, or ``native: <why no kernel>``."""
    shape: tuple[int, int, int, int]
    dtype: str
    input_bytes: int
    num_sets: int
    """Number of inputs that are taken in turn, so that the cache does not serve them."""
    failure: str | None = None
    kept_bytes: int | None = None
    """Bytes that autograd keeps for backward: distinct storages, the input counted, parameters and buffers not."""
    forward_seconds: PerRound = ()
    backward_seconds: PerRound = ()
    copy_seconds: PerRound = ()
    """Seconds of a device copy of a tensor of the same size, in the same rounds."""

    @property
    def has_samples(self) -> bool:
        """Whether anything was timed."""
        return bool(self.forward_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def forward_gb_per_s(self) -> float | None:
        """Bandwidth of the forward pass: the fewest bytes that must move (read x, write y) by the median time."""
        return _gb_per_s(2 * self.input_bytes, self.forward_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def backward_gb_per_s(self) -> float | None:
        """Bandwidth of the backward pass: the fewest bytes that must move (read x, dy, write dx) by the median time."""
        return _gb_per_s(3 * self.input_bytes, self.backward_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def copy_gb_per_s(self) -> float | None:
        """Bandwidth of the copy: bytes read and bytes written by the median time."""
        return _gb_per_s(2 * self.input_bytes, self.copy_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def forward_copy_fraction(self) -> float | None:
        """Bandwidth of the forward pass relative to the copy's."""
        return _quotient(self.forward_gb_per_s, self.copy_gb_per_s)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def backward_copy_fraction(self) -> float | None:
        """Bandwidth of the backward pass relative to the copy's."""
        return _quotient(self.backward_gb_per_s, self.copy_gb_per_s)


class InferRow(_Frozen):
    """One network in evaluation mode, in one way of running it."""

    norm: str
    variant: str
    """``eager``, ``graph`` (captured), ``compile``, or ``onnx`` under onnxruntime on the CPU."""
    precision: str
    batch_size: int
    folded: bool = False
    """Whether the norms are folded into the convolutions before them."""
    failure: str | None = None
    num_parameters: int | None = None
    fold_difference: float | None = None
    """The largest difference of the logits that folding makes, as a share of the largest of them."""
    onnx_nodes: int | None = None
    """Nodes of the exported graph, before a runtime optimizes it."""
    onnx_difference: float | None = None
    """As `fold_difference`, between torch and onnxruntime."""
    peak_memory_mib: float | None = None
    """Device memory that building and running it eagerly added: weights, batch, activations; None on a CPU."""
    seconds_per_batch: PerRound = ()
    ratio_to_bn: float | None = None
    """Time relative to bn's, not folded, in the same variant: the median over rounds of the quotient within a round."""

    @property
    def has_samples(self) -> bool:
        """Whether anything was timed."""
        return bool(self.seconds_per_batch)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ms_per_batch(self) -> float | None:
        """The median over rounds, in milliseconds."""
        return median([1e3 * seconds for seconds in self.seconds_per_batch])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images_per_second(self) -> float | None:
        """Images a second, by the median time."""
        seconds = median(self.seconds_per_batch)
        return self.batch_size / seconds if seconds else None


class _Results(_Frozen):
    schema_version: Literal[1] = 1
    started_at: str
    """The start, UTC, ISO 8601."""
    interrupted: bool = False
    settings: Mapping[str, Any]
    """The command's settings, as resolved."""
    environment: Mapping[str, Any]
    """Versions, device and command, as in a run's environment.json."""


class TrainResults(_Results):
    """The results of ``normbench bench train``."""

    bench: Literal["train"] = "train"
    rows: tuple[TrainRow, ...]


class LayerResults(_Results):
    """The results of ``normbench bench layers``."""

    bench: Literal["layers"] = "layers"
    rows: tuple[LayerRow, ...]


class InferResults(_Results):
    """The results of ``normbench bench infer``."""

    bench: Literal["infer"] = "infer"
    rows: tuple[InferRow, ...]


def with_inference_ratios(rows: Sequence[InferRow]) -> tuple[InferRow, ...]:
    """Fill in each row's ratio to bn, as far as that was measured beside it."""
    base = {(row.variant, row.precision, row.batch_size): row for row in rows if row.norm == "bn" and not row.folded}
    filled = []
    for row in rows:
        other = base.get((row.variant, row.precision, row.batch_size))
        pairs = zip(row.seconds_per_batch, other.seconds_per_batch, strict=False) if other else ()
        filled.append(row.model_copy(update={"ratio_to_bn": median([mine / theirs for mine, theirs in pairs])}))
    return tuple(filled)


def with_ratios(rows: Sequence[TrainRow]) -> tuple[TrainRow, ...]:
    """Fill in each row's ratios to bn, to none and to the tutorial's loop, as far as they were measured beside it."""
    by_key = {(row.batch_size, row.variant, row.runs_at_once, row.norm): row for row in rows}

    def ratio(row: TrainRow, other: TrainRow | None) -> float | None:
        pairs = zip(row.seconds_per_step, other.seconds_per_step, strict=False) if other else ()
        return median([mine / theirs for mine, theirs in pairs if theirs])

    filled = []
    for row in rows:
        setting = (row.batch_size, row.variant, row.runs_at_once)
        tutorial = by_key.get((row.batch_size, TUTORIAL, 1, row.norm))
        changes = {
            "ratio_to_bn": ratio(row, by_key.get((*setting, "bn"))),
            "ratio_to_none": ratio(row, by_key.get((*setting, "none"))),
            "speedup_over_tutorial": ratio(tutorial, row) if tutorial else None,
        }
        filled.append(row.model_copy(update=changes))
    return tuple(filled)


def failure_of(error: Exception) -> str:
    """Return in a line why a case failed: the kind of error and the first line of its message."""
    kind = type(error).__name__  # of torch.OutOfMemoryError too, as this module needs no torch
    return f"{'out of memory beside the other cases' if kind == 'OutOfMemoryError' else kind}: {first_line(error)}"


def failures(rows: Iterable[TrainRow | LayerRow | InferRow]) -> list[str]:
    """Return a line for each row that failed or has a note."""
    lines = []
    for row in rows:
        if isinstance(row, InferRow):
            if row.failure:
                lines.append(f"{row.norm}, {row.variant}, batch {row.batch_size}, {row.precision}: {row.failure}")
            continue
        said = row.failure or (row.note if isinstance(row, TrainRow) else None)
        if said:
            where = f"batch {row.batch_size}" if isinstance(row, TrainRow) else "x".join(map(str, row.shape))
            variant = row.variant_at_once if isinstance(row, TrainRow) else row.way
            lines.append(f"{row.norm}, {variant}, {where}: {said}")
    return lines


def _gb_per_s(num_bytes: int, seconds: PerRound) -> float | None:
    middle = median(seconds)
    return num_bytes / middle / 1e9 if middle else None


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
