"""Capturing a training step as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

from normbench.engine.optimizer import Optimizer
from normbench.errors import first_line

WARMUP_STEPS = 3
"""Enough for the allocator and cuDNN's choice of algorithms to settle before a capture."""


def warm_up_and_capture(
    step: Callable[[], None], optimizer: Optimizer, *, rewind: Callable[[], object]
) -> tuple[torch.cuda.CUDAGraph | None, str]:
    """Run `step` some times, which changes what it trains, and capture it without running it once more.

    `rewind` sets the step's counters back before each time; it is no part of the graph. All happens on one stream of
    its own: autograd's leaf nodes stay on the stream that first used them. `step` must read and write the same device
    tensors at each call and never ask the host.

    Returns:
        The graph and an empty string, or None and why the step cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_STEPS):
            rewind()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError as error:
        torch.cuda.synchronize()
        return None, f"not capturable: {first_line(error)}"
    return graph, ""
