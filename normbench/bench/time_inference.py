"""Trained networks in use, timed: every norm in every way, in turn, in one process."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normbench.bench.folding import fold
from normbench.bench.results import InferRow, failure_of, with_inference_ratios
from normbench.engine.device import DeviceName, Precision, autocast, set_arithmetic, synchronize
from normbench.engine.interleaved_timer import InterleavedTimer
from normbench.engine.memory import MemoryMeter
from normbench.models import build_model
from normbench.norms import AnyNormFactory

LATENCY_BATCH_SIZE = 1
"""At this batch size each batch waits for the one before; larger ones follow each other."""
_WARM_UP = 3


@dataclass(frozen=True)
class InferBenchSettings:
    """Settings of a benchmark of networks in use."""

    model: str
    device: DeviceName
    variants: tuple[str, ...]
    """``eager``, ``graph``, ``compile``."""
    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    rounds: int
    block_seconds: float
    onnx: bool = False
    """Whether networks are also exported to ONNX and run by onnxruntime on the CPU."""


@dataclass
class _Case:
    """One network in one way of running it."""

    row: InferRow
    run: Callable[[int], None] | None = None
    keep: list[object] = field(default_factory=list)
    """What a captured graph reads, which must stay alive."""


class InferBench:
    """A benchmark of networks in evaluation mode, with weights nobody trained: times do not depend on them.

    `rows` can be read at any time.
    """

    def __init__(
        self, factories: Sequence[AnyNormFactory], settings: InferBenchSettings, on_progress: Callable[[str], object]
    ) -> None:
        self._factories = factories
        self._settings = settings
        self._on_progress = on_progress
        self._done: list[InferRow] = []

    @property
    def rows(self) -> tuple[InferRow, ...]:
        """The rows measured so far."""
        return with_inference_ratios(self._done)

    def run(self) -> None:
        """Measure everything; a network that fails is a row with its reason."""
        settings = self._settings
        networks = [network for factory in self._factories for network in self._networks(factory)]
        for precision in settings.precisions:
            set_arithmetic(precision, settings.device)
            for batch_size in settings.batch_sizes:
                # All memory comes before the first capture: a meter clears workspaces that a graph goes on to use.
                metered = [(self._metered(row, model, precision, batch_size), model) for row, model in networks]
                cases = [
                    self._start(row, model, variant, precision, batch_size)
                    for row, model in metered
                    for variant in settings.variants
                ]
                self._time(cases, batch_size)
                del cases
                gc.collect()
        if settings.onnx:
            from normbench.bench.onnx_export import onnx_row

            for row, model in networks:
                if row.failure is None and not row.folded:
                    self._on_progress(f"{row.norm}: ONNX")
                    self._done.append(onnx_row(row, model, self._images(1), settings.rounds, settings.block_seconds))

    def _networks(self, factory: AnyNormFactory) -> list[tuple[InferRow, nn.Module]]:
        """Return the network with a norm, and with that norm folded where that is possible; rows without times yet."""
        self._on_progress(f"building {factory.name}")
        row = InferRow(norm=factory.name, variant="", precision="", batch_size=0)
        try:
            torch.manual_seed(0)
            model = build_model(self._settings.model, norm=factory, num_classes=10, image_size=32)
            images = self._images(8)
            model.train()(images)  # so that running statistics are those of something
            model.eval()
            folded = fold(model, images)
        except Exception as error:
            return [(row.model_copy(update={"failure": failure_of(error)}), nn.Identity())]
        found = [(row.model_copy(update={"num_parameters": _count(model)}), model)]
        if folded is not None:
            changes = {
                "folded": True,
                "num_parameters": _count(folded.model),
                "fold_difference": folded.difference,
            }
            found.append((row.model_copy(update=changes), folded.model))
        return found

    def _metered(self, row: InferRow, model: nn.Module, precision: Precision, batch_size: int) -> InferRow:
        """Return `row` with the device memory that the network takes, run eagerly."""
        if self._settings.device != "cuda" or row.failure is not None:
            return row
        memory = MemoryMeter("cuda")
        try:
            self._forward(_Case(row), model, "eager", precision, batch_size)()
            synchronize("cuda")
        except Exception as error:
            return row.model_copy(update={"failure": failure_of(error)})
        return row.model_copy(update={"peak_memory_mib": memory.peak_mib()})

    def _start(self, row: InferRow, model: nn.Module, variant: str, precision: Precision, batch_size: int) -> _Case:
        case = _Case(row.model_copy(update={"variant": variant, "precision": precision, "batch_size": batch_size}))
        if case.row.failure is not None:
            return case
        folded = ", folded" if row.folded else ""
        self._on_progress(f"{precision}, batch {batch_size}: starting {row.norm}{folded}, {variant}")
        settings = self._settings
        try:
            forward = self._forward(case, model, variant, precision, batch_size)
            for _ in range(_WARM_UP):
                forward()
            synchronize(settings.device)
        except Exception as error:
            case.row = case.row.model_copy(update={"failure": failure_of(error)})
            return case
        waits = batch_size == LATENCY_BATCH_SIZE

        def run(steps: int) -> None:
            for _ in range(steps):
                forward()
                if waits:
                    synchronize(settings.device)

        case.run = run
        return case

    def _forward(
        self, case: _Case, model: nn.Module, variant: str, precision: Precision, batch_size: int
    ) -> Callable[[], object]:
        """Return a function that runs one batch, which is on the device already."""
        device = self._settings.device
        moved = copy.deepcopy(model).to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        if precision == "bf16":
            _to_bf16(moved)
        images = self._images(batch_size).to(device, memory_format=torch.channels_last)
        called: Callable[[Tensor], Tensor] = torch.compile(moved) if variant == "compile" else moved

        def forward() -> Tensor:
            with torch.no_grad(), autocast(device, precision):
                return called(images)

        return forward if variant != "graph" else _captured(case, forward)

    def _time(self, cases: Sequence[_Case], batch_size: int) -> None:
        settings = self._settings
        self._on_progress(f"batch {batch_size}: {settings.rounds} rounds over {len(cases)} cases")
        timer = InterleavedTimer(
            {position: case.run for position, case in enumerate(cases) if case.run is not None},
            synchronize=lambda: synchronize(settings.device),
            block_seconds=settings.block_seconds,
        )
        for _ in timer.rounds(settings.rounds):
            pass
        times = timer.times()
        for position, case in enumerate(cases):
            seconds = times[position].seconds_per_step if position in times else ()
            self._done.append(case.row.model_copy(update={"seconds_per_batch": seconds}))

    def _images(self, count: int) -> Tensor:
        return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))


def _captured(case: _Case, forward: Callable[[], Tensor]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        output = forward()
    case.keep += [forward, output]
    return graph.replay


def _to_bf16(model: nn.Module) -> None:
    """Keep weights of convolutions and linear layers in bf16, so that autocast casts none; norms keep float32."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
