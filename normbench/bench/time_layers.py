"""Norm and activation alone, timed forward and backward beside a copy of the same size."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.bench.results import LayerRow, PerRound, failure_of
from normbench.engine.device import DeviceName, Precision, activation_dtype, autocast, set_arithmetic, synchronize
from normbench.engine.interleaved_timer import InterleavedTimer, RunSteps, StepTimes
from normbench.engine.precompile import compile_layers
from normbench.engine.same_bits import nondeterministic_operations
from normbench.inspection.measure import Shape, forward_counting_kept_bytes
from normbench.layers.norm_act import FusedNormAct
from normbench.norms import NormFactory

CPU_CACHE_BYTES = 16 * 2**20
"""Assumed size of a CPU's cache, which a container often does not show."""
MIN_LAUNCHES = 20
"""The fewest launches of a layer that are captured in one CUDA graph."""
MAX_SETS = 256
"""The most sets of inputs: a graph launches a layer at least once for each, and preparing more takes minutes."""

_COPY = -1
_Key = tuple[int, str]
"""Position of the layer (or `_COPY`), and ``forward``, ``backward`` or ``copy``."""


@dataclass(frozen=True)
class LayerBenchSettings:
    """Settings of a benchmark of layers."""

    device: DeviceName
    precision: Precision
    rounds: int
    block_seconds: float


class LayerBench:
    """A benchmark of each norm with its activation on each shape, ``(N, C, H, W)``; `rows` can be read at any time.

    All layers of a shape are timed in turn, with a copy of a tensor of that size. Inputs are channels_last, as in
    training, and more sets of them are taken in turn than the cache holds, MAX_SETS at most. On CUDA many launches are
    captured in one graph, so that launching them takes no time.
    """

    def __init__(
        self,
        factories: Sequence[NormFactory],
        shapes: Sequence[Shape],
        settings: LayerBenchSettings,
        on_progress: Callable[[str], object],
    ) -> None:
        self._factories = factories
        self._shapes = shapes
        self._settings = settings
        self._on_progress = on_progress
        self._done: list[LayerRow] = []
        self._current: _ShapeBench | None = None

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """The rows measured so far."""
        return (*self._done, *(self._current.rows() if self._current else ()))

    def run(self) -> None:
        """Measure everything; a layer that fails is a row with its reason."""
        set_arithmetic(self._settings.precision, self._settings.device)
        with nondeterministic_operations():  # as in training: no warning of torch's, of which rows say nothing
            for shape in self._shapes:
                self._on_progress(f"layers on {'x'.join(map(str, shape))}")
                self._current = _ShapeBench(shape, self._settings)
                self._current.run(self._factories)
                self._done += self._current.rows()
                self._current = None
                gc.collect()  # the next shape needs the memory


@dataclass
class _Layer:
    """One layer with its measurements so far."""

    norm: str
    module: nn.Module | None
    path: str = "native: no fused kernel for it"
    failure: str | None = None
    kept_bytes: int | None = None


class _ShapeBench:
    """The benchmark of all layers, and of the copy, on one shape."""

    def __init__(self, shape: Shape, settings: LayerBenchSettings) -> None:
        self._shape = shape
        self._settings = settings
        self._dtype = activation_dtype(settings.precision)
        self._num_bytes = torch.Size(shape).numel() * self._dtype.itemsize
        self._num_sets = num_sets(self._num_bytes, settings.device)
        # One stream for all of it: autograd's leaf nodes stay on the stream that first used them, which a capture on
        # another stream would have to wait for.
        self._stream = torch.cuda.Stream() if settings.device == "cuda" else None
        self._inputs = [self._draw().requires_grad_() for _ in range(self._num_sets)]
        self._gradients = [self._draw() for _ in range(self._num_sets)]
        self._layers: list[_Layer] = []
        self._timer: InterleavedTimer[_Key] | None = None
        self._layers_per_step = 1
        if self._stream is not None:
            self._layers_per_step = -(-MIN_LAUNCHES // self._num_sets) * self._num_sets

    def run(self, factories: Sequence[NormFactory]) -> None:
        """Prepare every layer and time those that work in turn."""
        synchronize(self._settings.device)
        passes = {(_COPY, "copy"): self._copy()}
        built = [self._build(factory) for factory in factories]
        self._compile([layer.module for layer in built if layer.module is not None])
        for layer in built:
            self._add(layer, passes)
            if layer.path == "fused" and isinstance(layer.module, FusedNormAct):
                self._add(_Layer(layer.norm, nn.Sequential(*layer.module), "native: for comparison"), passes)
        self._timer = InterleavedTimer(
            passes,
            synchronize=lambda: synchronize(self._settings.device),
            block_seconds=self._settings.block_seconds,
        )
        for _ in self._timer.rounds(self._settings.rounds):
            pass

    def rows(self) -> list[LayerRow]:
        """Return a row for each layer, with what is measured of it so far."""
        times = {} if self._timer is None else self._timer.times()
        return [
            LayerRow(
                norm=layer.norm,
                way="fused" if layer.path == "fused" else "native",
                path=layer.path,
                shape=self._shape,
                dtype=str(self._dtype).removeprefix("torch."),
                input_bytes=self._num_bytes,
                num_sets=self._num_sets,
                failure=layer.failure,
                kept_bytes=layer.kept_bytes,
                forward_seconds=self._samples(times.get((position, "forward"))),
                backward_seconds=self._samples(times.get((position, "backward"))),
                copy_seconds=self._samples(times.get((_COPY, "copy"))),
            )
            for position, layer in enumerate(self._layers)
        ]

    def _samples(self, times: StepTimes | None) -> PerRound:
        return tuple(seconds / self._layers_per_step for seconds in times.seconds_per_step) if times else ()

    def _draw(self) -> Tensor:
        x = torch.randn(self._shape, device=self._settings.device)
        return (1.5 * x + 0.3).to(self._dtype, memory_format=torch.channels_last)

    def _build(self, factory: NormFactory) -> _Layer:
        try:
            module = factory.norm_act(self._shape[1], size=self._shape[2:])
            return _Layer(factory.name, module.to(self._settings.device).train())
        except Exception as error:
            return _Layer(factory.name, None, failure=failure_of(error))

    def _compile(self, modules: Sequence[nn.Module]) -> None:
        """Compile the kernels of all layers at once; one that fails says so when it is run."""
        if self._settings.device == "cuda":
            with self._autocast():
                compile_layers(modules, self._inputs[0].detach())

    def _add(self, layer: _Layer, passes: dict[_Key, RunSteps]) -> None:
        """Measure the bytes that the layer keeps for backward, and add its `passes` to those to be timed."""
        position = len(self._layers)
        self._layers.append(layer)
        if layer.module is None:
            return
        try:
            with self._on_stream(), self._autocast():
                _, layer.kept_bytes = forward_counting_kept_bytes(layer.module, self._inputs[0])
            if isinstance(layer.module, FusedNormAct):
                layer.path = layer.module.path
            passes[position, "forward"], passes[position, "backward"] = self._passes(layer.module)
        except Exception as error:
            layer.failure = failure_of(error)
            passes.pop((position, "forward"), None)

    def _passes(self, module: nn.Module) -> tuple[RunSteps, RunSteps]:
        """Return two functions, which run the forward and the backward pass of `module`."""
        inputs, gradients = self._inputs, self._gradients
        parameters = list(module.parameters())

        def forward(index: int) -> Tensor:
            with self._autocast():
                output: Tensor = module(inputs[index])
            return output

        with self._on_stream():
            outputs = [forward(index) for index in range(self._num_sets)]

        def backward(index: int) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                outputs[index], [inputs[index], *parameters], gradients[index], retain_graph=True
            )

        return self._runner(forward), self._runner(backward)

    def _copy(self) -> RunSteps:
        sources = [x.detach() for x in self._inputs]
        targets = [torch.empty_like(source) for source in sources]
        return self._runner(lambda index: targets[index].copy_(sources[index]))

    def _runner(self, work: Callable[[int], object]) -> RunSteps:
        """Return a function that does `work` on one set after the other; on CUDA, a step replays a graph of many.

        The last result of every set is kept, so that no result overwrites one that is still in the cache.
        """
        results: list[object] = [None] * self._num_sets
        position = 0

        def run(steps: int) -> None:
            nonlocal position
            for _ in range(steps):
                results[position] = work(position)
                position = (position + 1) % self._num_sets

        with self._on_stream():
            run(self._num_sets)
        if self._stream is None:
            return run
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            run(self._layers_per_step)
        results.clear()  # their memory stays the graph's
        return _Replay(graph, work)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _autocast(self) -> torch.autocast:
        return autocast(self._settings.device, self._settings.precision)


@dataclass(frozen=True)
class _Replay:
    """A graph that can be replayed, with the `work` that holds the tensors it reads, which must stay alive."""

    graph: torch.cuda.CUDAGraph
    work: Callable[[int], object]

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.graph.replay()


def num_sets(num_bytes: int, device: DeviceName) -> int:
    """Return how many tensors of `num_bytes` are twice what the cache holds; two at least, MAX_SETS at most."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else CPU_CACHE_BYTES
    return min(max(2, -(-2 * cache // num_bytes)), MAX_SETS)
