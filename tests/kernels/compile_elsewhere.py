"""A program: compiles kernels in another process, for a GPU that is not there, and prints what is left to do here."""

import json
import sys
from types import SimpleNamespace

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from normbench.kernels import NormActSpec
from normbench.kernels.launch import Compilation
from normbench.kernels.operation import launch_all
from normbench.kernels.pool_linear import backward, forward
from normbench.triton_code import compiler


class NoGpu:
    """What Triton asks of a driver, for an H100 on which nothing can be loaded for real."""

    utils = SimpleNamespace(
        load_binary=lambda *_: (1, 1, 0, 0, 1024), get_device_properties=lambda _: {"max_shared_mem": 232448}
    )
    launcher_cls = staticmethod(lambda *_: lambda *_: None)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def head() -> None:
    """Launch the kernels of the classifier."""
    x, weight, bias = torch.zeros(8, 64, 4, 4, dtype=torch.bfloat16), torch.zeros(10, 64), torch.zeros(10)
    x, weight, bias = x.to(memory_format=torch.channels_last), weight.bfloat16(), bias.bfloat16()
    y, means = forward(x, weight, bias)
    backward(y, means, weight, x.shape[2:], has_bias=True)


def norm() -> None:
    """Launch the kernels of a norm whose statistics are single samples'."""
    x = torch.zeros(8, 64, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    launch_all(x, NormActSpec(scope="sample", groups=8), {"weight": torch.zeros(64), "bias": torch.zeros(64)})


def main() -> None:
    """Compile, there and here, and print the kernels that were compiled here and those that were found compiled."""
    driver.set_active(NoGpu())
    if sys.argv[1] == "elsewhere":
        compiler.start_ahead()
    here: dict[bool, list[str]] = {False: [], True: []}
    knobs.compilation.listener = lambda *, src, cache_hit, **_: here[cache_hit].append(src.fn.__name__)
    with Compilation() as compilation:
        compilation.add({"head": head, "norm": norm})
    print(json.dumps({"compiled": sorted(here[False]), "found": sorted(here[True])}))


main()
