"""The shares of convolutions, norms and optimizer in an eager training step on the CPU, by torch's profiler."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from normbench.bench.results import Breakdown

Category = Literal["convolution", "norm_and_activation", "optimizer"]

_STEP = "normbench::step"
_RANGES: dict[str, Category] = {
    "normbench::convolution": "convolution",
    "normbench::norm": "norm_and_activation",
}
_BACKWARD = "autograd::engine::evaluate_function"


def profile_steps(model: nn.Module, step: Callable[[], object], *, num_steps: int = 3) -> Breakdown:
    """Run `step`, which trains `model` on the CPU, under the profiler, and return the share of each part.

    - convolution: all that happens in the convolution layers, forward and backward, weight standardization and the
      casts of operands included;
    - norm and activation: likewise of the norms and ReLUs;
    - optimizer: `step` and `zero_grad`;
    - other: the rest of the time: batch assembly, pooling, the classifier, the loss, adding up gradients, Python.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports the missing GPU as an error
    step()
    with _marked(model), profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(num_steps):
            with record_function(_STEP):
                step()
    return _shares(recorded.events())


@contextmanager
def _marked(model: nn.Module) -> Iterator[None]:
    """Mark for the profiler the time that convolutions and norms take in the forward pass."""
    open_ranges: list[record_function] = []

    def mark(name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            open_ranges.append(record_function(name))
            open_ranges[-1].__enter__()

        return enter

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = []
    for module in model.modules():
        name = _range_of(module)
        if name is not None:
            handles += [module.register_forward_pre_hook(mark(name)), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _range_of(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d):
        return "normbench::convolution"
    if isinstance(module, nn.Linear):
        return None
    kind = type(module)
    is_norm = kind.__module__.startswith(("normbench.norms.", "torch.nn.modules.batchnorm"))
    return "normbench::norm" if is_norm or isinstance(module, nn.ReLU | nn.GELU) else None


def _shares(events: Any) -> Breakdown:
    """Add up the outermost events of each category; a backward event has the category of its forward operation."""
    forward: dict[int, Category] = {}
    of_event: dict[int, Category] = {}
    ordered = sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end))
    for event in ordered:
        inherited = of_event.get(id(event.cpu_parent))
        if event.name.startswith(_BACKWARD):
            category = forward.get(event.sequence_nr)
        elif event.name.startswith("Optimizer."):
            category = "optimizer"
        else:
            category = _RANGES.get(event.name)
            if event.sequence_nr >= 0 and not _is_backward(event):
                # An operation without gradient carries the number of the next one that has one: the last one counts.
                forward.pop(event.sequence_nr, None)
                if inherited or category:
                    forward[event.sequence_nr] = inherited or category  # type: ignore[assignment]
        found = inherited or category
        if found:
            of_event[id(event)] = found
    total = sum(event.cpu_time_total for event in ordered if event.name == _STEP)
    spent: dict[str, float] = defaultdict(float)
    for event in ordered:
        if id(event) in of_event and id(event.cpu_parent) not in of_event:
            spent[of_event[id(event)]] += event.cpu_time_total / total
    return Breakdown(
        convolution=spent["convolution"],
        norm_and_activation=spent["norm_and_activation"],
        optimizer=spent["optimizer"],
        other=1 - sum(spent.values()),
    )


def _is_backward(event: Any) -> bool:
    while event is not None:
        if event.name.startswith(_BACKWARD):
            return True
        event = event.cpu_parent
    return False
