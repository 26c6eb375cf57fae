"""Time the kernels and the native composition, forward and backward, under CUDA graph replay."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from itertools import cycle

import torch
from torch import Tensor
from torch.nn import functional

from normbench.kernels import NormActSpec, norm_act, reference
from normbench.kernels.check.cases import LAYERS, Case

Function = Callable[..., Tensor]


def native(case: Case) -> Function:
    """Return the composition that runs where no kernel does: statistics in float32, then the activation."""
    spec = case.spec

    def compute(x: Tensor, _: NormActSpec, weight: Tensor | None, bias: Tensor | None, extra: Tensor | None) -> Tensor:
        if case.norm == "bn":
            return functional.batch_norm(x, None, None, weight, bias, training=True, eps=spec.eps).relu_()
        if case.norm in ("ln", "in", "gn"):
            return functional.group_norm(x.float(), spec.groups, weight, bias, spec.eps).to(x.dtype).relu_()
        return reference.norm_act(x.float(), spec, weight, bias, extra).to(x.dtype)

    return compute


def relu_only(x: Tensor, *_: object) -> Tensor:
    """Apply what a network without norms has here."""
    return x.relu()


@dataclass
class Timing:
    """Times in microseconds; kept_mib is what the backward pass needs, the parameters left out."""

    forward_us: float
    total_us: float
    kept_mib: float


def time_layer(case: Case, function: Function, *, cold: bool) -> Timing:
    """Time forward, and forward with backward; where `cold`, on inputs in turn that the L2 cache cannot all hold."""
    l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    copies = 2 + 2 * l2_bytes // case.draw()[0].nbytes if cold else 1
    drawn = [case.draw() for _ in range(copies)]
    inputs = cycle(drawn)

    def forward() -> tuple[Tensor, list[Tensor], Tensor]:
        x, parameters, grad = next(inputs)
        leaves = [x] if function is relu_only else [x, *(p for p in parameters if p is not None)]
        return function(x, case.spec, *parameters), leaves, grad

    def both() -> None:
        torch.autograd.grad(*forward())

    own = {p.data_ptr() for _, parameters, _ in drawn for p in parameters if p is not None}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    # One stream for all of it: autograd's leaf nodes stay on the stream that first used them, which a capture on
    # another stream would have to wait for.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    repeats = max(copies, min(20, 2**28 // drawn[0][0].numel()))
    times = [graph_us(step, repeats, side) for step in (forward, both)]
    return Timing(times[0], times[1], sum(kept.values()) / 2**20)


def graph_us(step: Callable[[], object], repeats: int, side: torch.cuda.Stream) -> float:
    """Return the microseconds of one `step`, of `repeats` captured in one CUDA graph on `side`; median of 7 replays."""
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for _ in range(repeats):
            step()
    graph.replay()
    return median_us(graph.replay) / repeats


def median_us(run: Callable[[], object]) -> float:
    """Return the median microseconds of 7 runs, by device events."""
    times: list[float] = []
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def copy_bytes_per_us() -> float:
    """Return the bandwidth of a 512 MiB device-to-device copy, bytes read plus bytes written."""
    source = torch.randn(2**27, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() * source.element_size() / median_us(lambda: target.copy_(source))


def time_norms(
    norms: list[str], batch_sizes: list[int], result: dict[str, object], *, native_too: bool, compiled: bool
) -> None:
    """Print for each norm (or `none`, ReLU alone) and batch size the times of its four layers, by each way.

    As in training: the activations of a small batch are in the L2 cache, those of a large one are not.
    """
    copy = copy_bytes_per_us()
    l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    result["copy_gb_per_s"] = copy / 1e3
    rows: list[dict[str, object]] = []
    print(f"copy {copy / 1e3:.0f} GB/s. Microseconds forward + backward (% of copy bandwidth): 4 layers, then each")
    for batch_size in batch_sizes:
        # The fewest bytes: forward reads x and writes y, backward reads x and dy and writes dx.
        sizes = [2 * batch_size * channels * side * side for channels, side in LAYERS]
        for norm in norms:
            ways: dict[str, Callable[[Case], Function]] = {"fused": lambda case: norm_act}
            if norm == "none":
                ways = {"native": lambda case: relu_only}
            elif native_too:
                ways["native"] = native
            if compiled and norm != "none":
                ways["compiled"] = lambda case: torch.compile(native(case), dynamic=False)
            for way, function in ways.items():
                timings = []
                for channels, side in LAYERS:
                    case = Case("bn" if norm == "none" else norm, (batch_size, channels, side, side))
                    timings.append(time_layer(case, function(case), cold=sum(sizes) > l2_bytes))
                    shape = {"norm": norm, "way": way, "batch_size": batch_size, "channels": channels, "side": side}
                    rows.append({**shape, **asdict(timings[-1])})
                total = Timing(*(sum(column) for column in zip(*map(astuple, timings), strict=True)))
                pairs = [(total, sum(sizes)), *zip(timings, sizes, strict=True)]
                cells = [cell(timing, num_bytes, copy) for timing, num_bytes in pairs]
                print(
                    f"{batch_size:5d} {norm:10s} {way:8s}", *cells, f"{total.kept_mib:.1f} MiB", sep=" | ", flush=True
                )
    result["timings"] = rows


def cell(timing: Timing, num_bytes: int, copy: float) -> str:
    """Show forward and backward, with their fractions of the bandwidth `copy`, bytes per microsecond."""
    backward_us = timing.total_us - timing.forward_us
    fractions = 2 * num_bytes / timing.forward_us / copy, 3 * num_bytes / backward_us / copy
    return f"{timing.forward_us:6.1f} + {backward_us:6.1f} ({fractions[0]:4.0%} {fractions[1]:4.0%})"
