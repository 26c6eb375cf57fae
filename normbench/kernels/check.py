"""Check and time the kernels on a CUDA device: ``python -m normbench.kernels.check --json result.json``.

Each kernel is compared with its formula in float64, on memory filled with NaN, and timed forward and backward under
CUDA graph replay beside the plain torch composition, as a fraction of the copy bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from normbench.kernels import NormActSpec, norm_act, plan, reference, unsupported_reason

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
"""Channels and side of the activations of NormResNet."""
ODD_SHAPES = ((5, 24, 7, 7), (3, 96, 33, 33))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
LEARNED = {
    "in": "",
    "rms2d": "weight",
    "group_rms": "weight",
    "frn": "weight bias extra",
    "evonorm_s0": "weight bias extra",
}
NORMS = ("bn", "ln", "in", "gn", "frn", "evonorm_s0", "ln2d", "rms2d", "group_rms")

Function = Callable[..., Tensor]


@dataclass
class Case:
    """One norm on one tensor."""

    norm: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    channels_last: bool

    @property
    def spec(self) -> NormActSpec:
        """What the kernel computes."""
        channels = self.shape[1]
        divisor = next(groups for groups in (4, 3, 2, 1) if channels % groups == 0)
        groups = 32 if channels % 32 == 0 else divisor
        return {
            "bn": NormActSpec(scope="batch"),
            "ln": NormActSpec(scope="sample", groups=1),
            "in": NormActSpec(scope="sample", groups=channels),
            "gn": NormActSpec(scope="sample", groups=divisor),
            "group_rms": NormActSpec(scope="sample", groups=divisor, centered=False),
            "frn": NormActSpec(scope="sample", groups=channels, centered=False, activation="tlu", eps=1e-6),
            "evonorm_s0": NormActSpec(scope="sample", groups=groups, activation="gate"),
            "ln2d": NormActSpec(scope="position", eps=1e-6),
            "rms2d": NormActSpec(scope="position", centered=False, eps=1e-6),
        }[self.norm]  # fmt: skip

    def draw(self) -> tuple[Tensor, list[Tensor | None], Tensor]:
        """Draw an input, its parameters (weight, bias, extra) and an output gradient."""
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        x, grad = (torch.randn(self.shape, device="cuda") for _ in range(2))
        x = (x * 1.5 + 0.3).to(self.dtype, memory_format=memory_format).requires_grad_()
        names = LEARNED.get(self.norm, "weight bias").split()
        parameters = [
            (torch.randn(self.shape[1], device="cuda") * 0.5 + 0.7).requires_grad_() if name in names else None
            for name in ("weight", "bias", "extra")
        ]
        return x, parameters, grad.to(self.dtype, memory_format=memory_format)


def compile_all(cases: Iterable[Case]) -> None:
    """Compile the kernels of `cases` on all processor cores."""
    from normbench.kernels.functions import Parameters, compile_for

    def compile_case(case: Case) -> None:
        x, parameters, _ = case.draw()
        with torch.no_grad():
            compile_for(x, case.spec, Parameters(*parameters), running=False)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in [pool.submit(compile_case, case) for case in cases]:
            future.exception()  # a kernel that fails is reported where it is checked


def relative_errors(case: Case) -> dict[str, float]:
    """Return ``|actual - expected| / |expected|`` of the output and of each gradient."""
    x, parameters, grad = case.draw()
    leaves = [x, *(p for p in parameters if p is not None)]
    y = norm_act(x, case.spec, *parameters)
    actual = [y, *torch.autograd.grad(y, leaves, grad)]
    weight, bias, extra = (None if p is None else p.detach().double().requires_grad_() for p in parameters)
    wide_x = x.detach().double().requires_grad_()
    expected_y = reference.norm_act(wide_x, case.spec, weight, bias, extra)
    expected = [
        expected_y,
        *torch.autograd.grad(expected_y, [wide_x, *(p for p in (weight, bias, extra) if p is not None)], grad.double()),
    ]
    names = ["y", "dx", *(f"d{name}" for name in LEARNED.get(case.norm, "weight bias").split())]
    return {
        name: ((a.double() - e).norm() / e.norm()).item()
        for name, a, e in zip(names, actual, expected, strict=True)
    }  # fmt: skip


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


def time_layer(case: Case, function: Function) -> Timing:
    """Time forward, and forward with backward."""
    x, parameters, grad = case.draw()
    leaves = [x, *(p for p in parameters if p is not None)]
    if function is relu_only:
        leaves = [x]

    def forward() -> Tensor:
        return function(x, case.spec, *parameters)

    def both() -> None:
        torch.autograd.grad(forward(), leaves, grad)

    own = {leaf.data_ptr() for leaf in leaves[1:]}
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
        y = forward()
    del y
    repeats = max(1, min(20, 2**28 // x.numel()))
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


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check(cases: list[Case], result: dict[str, object]) -> bool:
    """Print the worst error of each norm and dtype, and every failure; return whether there was none."""
    worst: dict[str, float] = {}
    failures = []
    for case in cases:
        label = f"{case.norm} {str(case.dtype).removeprefix('torch.')}"
        where = f"{label} {case.shape} {'channels_last' if case.channels_last else 'contiguous'}"
        reason = unsupported_reason(case.draw()[0], case.spec)
        try:
            errors = {"unsupported: " + reason: float("nan")} if reason else relative_errors(case)
        except Exception as error:  # one kernel must not keep the others from being checked
            failures.append(f"{where}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
            continue
        worst[label] = max(worst.get(label, 0.0), *errors.values())
        if not all(error < TOLERANCE[case.dtype] for error in errors.values()):
            failures.append(f"{where}: {', '.join(f'{name} {error:.1e}' for name, error in errors.items())}")
    for norm in NORMS:
        print("  ".join(f"{label} {error:.1e}" for label, error in worst.items() if label.split()[0] == norm))
    print(f"{len(cases)} cases, {len(failures)} failed", *failures, sep="\n  ")
    result["worst_relative_error"] = worst
    result["failures"] = failures
    return not failures


def time_norms(norms: list[str], batch_sizes: list[int], compiled: bool, result: dict[str, object]) -> None:
    """Print for each norm and batch size the time of its four layers, fused and native."""
    copy = copy_bytes_per_us()
    result["copy_gb_per_s"] = copy / 1e3
    rows: list[dict[str, object]] = []
    print(f"copy {copy / 1e3:.0f} GB/s. Microseconds forward / forward+backward of the 4 layers; % of copy bandwidth")
    for batch_size in batch_sizes:
        for norm in ("none", *norms):
            ways: dict[str, Callable[[Case], Function]] = {"fused": lambda case: norm_act, "native": native}
            if compiled:
                ways["compiled"] = lambda case: torch.compile(native(case), dynamic=False)
            if norm == "none":
                ways = {"native": lambda case: relu_only}
            for way, function in ways.items():
                cells, total, kept = [], 0.0, 0.0
                for channels, side in LAYERS:
                    name = "bn" if norm == "none" else norm
                    case = Case(name, (batch_size, channels, side, side), torch.bfloat16, True)
                    try:
                        timing = time_layer(case, function(case))
                    except Exception as error:  # likewise
                        cells.append(f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
                        continue
                    # The fewest bytes: forward reads x and writes y, backward reads x and dy and writes dx.
                    num_bytes = 2 * batch_size * channels * side * side
                    fractions = (
                        2 * num_bytes / timing.forward_us / copy,
                        3 * num_bytes / (timing.total_us - timing.forward_us) / copy,
                    )
                    cells.append(f"{timing.forward_us:.1f}/{timing.total_us:.1f} {fractions[0]:.0%}/{fractions[1]:.0%}")
                    total += timing.total_us
                    kept += timing.kept_mib
                    shape = {"norm": norm, "way": way, "batch_size": batch_size, "channels": channels, "side": side}
                    rows.append({**shape, **asdict(timing), "copy_fractions": fractions})
                label = f"{batch_size:5d} {norm:10s} {way:8s} {total:7.1f} us {kept:6.1f} MiB"
                print(label, *cells, sep=" | ", flush=True)
    result["timings"] = rows


def main() -> int:
    """Check, time, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--norms", default=",".join(NORMS), help="comma-separated")
    parser.add_argument("--batch-sizes", default="64,1024", help="comma-separated; empty: no timing")
    parser.add_argument("--no-check", action="store_true", help="only time")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the native composition")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=N", help="override a constant of plan.py")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device")
    for setting in options.set:
        name, _, value = setting.partition("=")
        getattr(plan, name)
        setattr(plan, name, int(value))
    norms = options.norms.split(",")
    batch_sizes = [int(size) for size in options.batch_sizes.split(",") if size]
    result: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "set": options.set}
    print(result["device"], "torch", torch.__version__, *options.set)

    net = [
        Case(norm, (batch_size, channels, side, side), torch.bfloat16, True)
        for norm in norms
        for batch_size in batch_sizes
        for channels, side in LAYERS
    ]
    odd = [
        Case(norm, shape, dtype, channels_last)
        for norm in norms
        for shape in ODD_SHAPES
        for dtype, channels_last in ((torch.float32, True), (torch.float16, False))
    ]
    cases = net if options.no_check else net + odd
    start = time.perf_counter()
    compile_all(cases)
    torch.cuda.synchronize()
    result["compile_seconds"] = time.perf_counter() - start
    print(f"compiled in {result['compile_seconds']:.1f} s on {os.cpu_count()} cores")
    good = True
    if not options.no_check:
        with poisoned_memory():
            good = check(cases, result)
    if batch_sizes:
        time_norms(norms, batch_sizes, options.compile, result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
