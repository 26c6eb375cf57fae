"""Check and time the mean over positions with a linear layer, for `normbench.kernels.check`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from normbench.kernels.check.cases import relative_errors
from normbench.kernels.check.timing import graph_us
from normbench.kernels.pool_linear import backward, forward

SHAPES = (
    (64, 512, 4, 4, 10), (1024, 512, 4, 4, 10), (16, 512, 4, 4, 10), (1, 512, 1, 1, 7), (5, 96, 7, 7, 10),
    (131, 500, 5, 3, 20),
)  # fmt: skip
"""Samples, channels, height, width, classes."""
TOLERANCE = 1e-2


def draw(n: int, channels: int, height: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw in bfloat16 an input, channels_last, a weight, a bias and an output gradient."""
    sizes = (n, channels, height, width), (classes, channels), (classes,), (n, classes)
    x, weight, bias, grad = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in sizes)
    return x.to(memory_format=torch.channels_last), weight, bias, grad


def torch_output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the output, as torch computes it."""
    return functional.linear(x.mean(dim=(2, 3)), weight, bias)


def torch_both(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output and the gradients of input, weight and bias, as torch computes them."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = torch_output(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def our_both(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the same from the kernels."""
    y, means = forward(x, weight, bias)
    return [y, *(t for t in backward(grad, means, weight, x.shape[2:], has_bias=True) if t is not None)]


def check_head(result: dict[str, object]) -> bool:
    """Print the worst relative errors, against float64, and failures; return whether there was none."""
    worst: dict[str, float] = {}
    failures = []
    for shape in SHAPES:
        torch.manual_seed(0)
        tensors = draw(*shape)
        try:
            actual, again = our_both(*tensors), our_both(*tensors)
        except Exception as error:  # the norms are still to be checked
            failures.append(f"head {shape}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
            continue
        expected = torch_both(*(t.double() for t in tensors))
        errors = relative_errors(("y", "dx", "dw", "db"), actual, expected)
        worst = {name: max(error, worst.get(name, 0.0)) for name, error in errors.items()}
        repeats = all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))
        if not all(error < TOLERANCE for error in errors.values()) or not repeats:
            failures.append(f"head {shape}: {errors}, repeats: {repeats}")
    print("head", *(f"{name} {error:.1e}" for name, error in worst.items()))
    print(f"{len(SHAPES)} cases, {len(failures)} failed", *failures, sep="\n  ")
    result["head_errors"], result["head_failures"] = worst, failures
    return not failures


def time_head(batch_sizes: list[int], result: dict[str, object]) -> None:
    """Print the times of NormResNet's last layer: ours and torch's."""
    rows: list[dict[str, object]] = []
    side = torch.cuda.Stream()
    for batch_size in batch_sizes:
        x, weight, bias, grad = draw(batch_size, 512, 4, 4, 10)
        for way, output, both in (("ours", forward, our_both), ("torch", torch_output, torch_both)):
            ahead = graph_us(partial(output, x, weight, bias), 20, side)
            total = graph_us(partial(both, x, weight, bias, grad), 20, side)
            rows.append({"way": way, "batch_size": batch_size, "forward": ahead, "backward": total - ahead})
            cells = f"forward {ahead:6.1f} | backward {total - ahead:6.1f}"
            print(f"{batch_size:5d} head {way:5s} | {cells}", flush=True)
    result["head_us"] = rows
