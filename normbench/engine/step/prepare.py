"""Preparing training steps: their kernels compiled, their libraries warm, and the steps captured as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from normbench.engine.device import is_beside_others, synchronize
from normbench.engine.memory import forget_warm_up
from normbench.engine.optimizer import Snapshot
from normbench.engine.precompile import compile_for
from normbench.engine.same_bits import nondeterministic_operations
from normbench.engine.step.base import TrainStep
from normbench.errors import first_line
from normbench.own_code import place_of

_WARMUP_STEPS = 3
"""Enough for the allocator, cuDNN and the compiler to come to rest before a capture."""


def prepare(step: TrainStep) -> None:
    """Compile, warm up and capture, leaving model and optimizer as they were.

    An eager step on a CPU needs none of it. Where a capture fails the steps run one by one and `fallback_reason` says
    why.
    """
    settings = step.settings
    if settings.device == "cpu" and settings.engine == "eager":
        return
    if settings.device == "cuda" and torch.backends.cudnn.benchmark:  # algorithms are chosen by time
        torch.cuda.synchronize()
    snapshot = Snapshot(step.model, step.optimizer)
    compile_for([step])
    step.refresh()
    with nondeterministic_operations() as step.nondeterministic:
        _warm_up_or_capture(step)
    synchronize(settings.device)
    snapshot.restore()
    step.refresh()
    synchronize(settings.device)


def _warm_up_or_capture(step: TrainStep) -> None:
    settings, sizes = step.settings, step.batch_sizes()
    steps = [partial(step.run, size) for size in sizes]
    if settings.device == "cuda" and settings.engine in ("graph", "compile"):
        graphs, step.fallback_reason = warm_up_and_capture(
            steps,
            rewind=step.state.rewind,
            begin=partial(step.optimizer.zero_grad, set_to_none=True),  # gradients then live in the graph's own memory
            finish=step.finish_capture,
        )
        step.graphs = dict(zip(sizes, graphs, strict=False))  # none where a step cannot be captured
    else:
        warm_up(steps, step.state.rewind)
        forget_warm_up(settings.device)


def warm_up(steps: Sequence[Callable[[], None]], rewind: Callable[[], object]) -> None:
    """Run each of the steps some times; `rewind` sets their counters back before each time and after all."""
    for step in steps:
        for _ in range(_WARMUP_STEPS):
            rewind()
            step()
    rewind()


def _nothing() -> None:
    """Do nothing before or after a capture."""


def warm_up_and_capture(
    steps: Sequence[Callable[[], None]],
    *,
    rewind: Callable[[], object],
    begin: Callable[[], object] = _nothing,
    finish: Callable[[], object] = _nothing,
) -> tuple[list[torch.cuda.CUDAGraph], str | None]:
    """Warm the steps up, which changes what they train or count, and capture each without running it once more.

    All happens on one stream, because autograd's leaf nodes stay on the stream that first used them: the current one
    where that is a run's own, and else one made for it. The graphs share one pool of memory. A step must read and write
    the same device tensors at each call and never ask the host. `begin` is called before each capture, and `finish`
    after it.

    Returns:
        A graph for each step; or none, and why they cannot be captured.
    """
    beside_others = is_beside_others("cuda")
    stream = _stream_for_captures()
    with torch.cuda.stream(stream):
        warm_up(steps, rewind)
    torch.cuda.current_stream().wait_stream(stream)
    forget_warm_up("cuda")
    graphs: list[torch.cuda.CUDAGraph] = []
    pool = torch.cuda.graph_pool_handle()
    try:
        for step in steps:
            graph = torch.cuda.CUDAGraph()
            begin()
            capture = _capture_beside_others(graph, pool) if beside_others else torch.cuda.graph(graph, pool, stream)
            with _giving_back(pool), capture:
                step()
            finish()
            graphs.append(graph)
    except RuntimeError as error:
        synchronize("cuda")
        return [], f"not capturable: {_why(error)}"
    return graphs, None


def capture_into(first: torch.cuda.CUDAGraph, function: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """Capture `function`, which has run before, with the memory of `first`; None where it cannot be captured.

    The two must never be replayed at the same time, nor hand each other anything in that memory.
    """
    stream = _stream_for_captures()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), _giving_back(first.pool()), _capture_beside_others(graph, first.pool()):
            function()
    except RuntimeError:
        synchronize("cuda")
        return None
    return graph


def _stream_for_captures() -> torch.cuda.Stream:
    """Return the current stream where that is a run's own, and else, as the default one has no captures, a new one."""
    stream = torch.cuda.current_stream() if is_beside_others("cuda") else torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    return stream


@contextmanager
def _giving_back(pool: Any) -> Iterator[None]:
    """Have a capture that fails give the memory back that it took from `pool`, which torch 2.11 forgets.

    There the allocator goes on to believe that a capture is under way, so that it returns nothing to the device any
    more (https://github.com/pytorch/pytorch/pull/180395), and never frees the pool (190348).
    """
    try:
        yield
    except RuntimeError:
        device = torch.cuda.current_device()
        try:
            torch._C._cuda_endAllocateToPool(device, pool)
        except RuntimeError:  # torch has ended it, and releases it with the graph
            pass
        else:
            torch._C._cuda_releasePool(device, pool)
        raise


@contextmanager
def _capture_beside_others(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Capture on the current stream as `torch.cuda.graph` does, but without its wait for all streams of the device.

    Nothing may be freed meanwhile by a search for garbage, which that does before.
    """
    gc.disable()
    try:
        graph.capture_begin(pool)
        try:
            yield
        finally:
            graph.capture_end()
    finally:
        gc.enable()


def _why(error: RuntimeError) -> str:
    """Return what a capture failed of: the first error, which ending the capture follows with one of its own.

    With file and line, if that was in code of a user's own.
    """
    first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    place = place_of(first)
    return f"{place}: {first_line(first)}" if place else first_line(first)
