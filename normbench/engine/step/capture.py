"""Capturing training steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from normbench.engine.optimizer import Optimizer
from normbench.errors import first_line

_WARMUP_STEPS = 3
"""Enough for the allocator, cuDNN's choice of algorithms and the compiler to settle before a capture."""


def warm_up(steps: Sequence[Callable[[], None]], rewind: Callable[[], object]) -> None:
    """Run each of the steps some times; `rewind` sets their counters back before each time and after all."""
    for step in steps:
        for _ in range(_WARMUP_STEPS):
            rewind()
            step()
    rewind()


def warm_up_and_capture(
    steps: Sequence[Callable[[], None]],
    optimizer: Optimizer,
    *,
    rewind: Callable[[], object],
    finish: Callable[[], object] = lambda: None,
) -> tuple[list[torch.cuda.CUDAGraph], str | None]:
    """Warm the steps up, which changes what they train, and capture each without running it once more.

    All happens on one stream of its own, because autograd's leaf nodes stay on the stream that first used them; the
    graphs share one pool of memory. A step must read and write the same device tensors at each call and never ask the
    host. `finish` is called after each capture.

    Returns:
        A graph for each step; or none, and why they cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up(steps, rewind)
    torch.cuda.current_stream().wait_stream(stream)
    graphs: list[torch.cuda.CUDAGraph] = []
    try:
        for step in steps:
            graph = torch.cuda.CUDAGraph()
            optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
            with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None, stream=stream):
                step()
            finish()
            graphs.append(graph)
    except RuntimeError as error:
        torch.cuda.synchronize()
        return [], f"not capturable: {first_line(error)}"
    return graphs, None
