"""Check and time the kernels on a CUDA device: ``python -m normbench.kernels.check --json result.json``.

Each kernel is compared with its formula in float64, on memory filled with NaN, and timed forward and backward under
CUDA graph replay beside the plain torch composition, as a fraction of the copy bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from normbench.kernels import norm_act, reference, unsupported_reason
from normbench.kernels import tiling as plan
from normbench.kernels.check.cases import LAYERS, LEARNED, NORMS, Case, compile_cases, relative_errors
from normbench.kernels.check.head import check_head, time_head
from normbench.kernels.check.images import check_images, time_images
from normbench.kernels.check.timing import time_norms

ODD_SHAPES = ((5, 24, 7, 7), (3, 96, 33, 33))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def norm_errors(case: Case) -> dict[str, float]:
    """Return the relative errors of the output and of each gradient, by name."""
    torch.manual_seed(0)
    x, parameters, grad = case.draw()
    grad = reference.settled_gradient(grad, x, case.spec, *parameters)
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
    return relative_errors(names, actual, expected)


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
            errors = {"unsupported: " + reason: float("nan")} if reason else norm_errors(case)
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


def main() -> int:
    """Check, time, print and record."""
    parser = argparse.ArgumentParser(
        prog="python -m normbench.kernels.check", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--norms", default=",".join(NORMS), help="comma-separated")
    parser.add_argument("--batch-sizes", default="64,1024", help="comma-separated")
    parser.add_argument("--no-check", action="store_true", help="only time")
    parser.add_argument("--no-time", action="store_true", help="only check")
    parser.add_argument("--fused-only", action="store_true", help="leave out the native composition")
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
    compile_cases(cases)
    torch.cuda.synchronize()
    result["compile_seconds"] = time.perf_counter() - start
    print(f"compiled in {result['compile_seconds']:.1f} s on {os.cpu_count()} cores")
    good = True
    if not options.no_check:
        with poisoned_memory():
            good = check_images(result) & check_head(result) & check(cases, result)
    if not options.no_time:
        time_images(batch_sizes, result)
        time_head(batch_sizes, result)
        time_norms(["none", *norms], batch_sizes, result, native_too=not options.fused_only, compiled=options.compile)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
