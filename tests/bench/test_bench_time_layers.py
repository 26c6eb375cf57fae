"""`LayerBench`: what is kept for backward by hand count, what is timed, what fails."""

from itertools import pairwise

import pytest
import torch

from normbench import make_norm
from normbench.bench import time_layers
from normbench.bench.results import LayerRow
from normbench.bench.time_layers import LayerBench, LayerBenchSettings, num_sets
from normbench.norms.filter_response import FilterResponseNorm

SHAPE = (2, 8, 16, 16)
SETTINGS = LayerBenchSettings(device="cpu", precision="fp32", rounds=2, block_seconds=0.002)


@pytest.fixture(autouse=True)
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_layers, "CPU_CACHE_BYTES", 3 * 16384)


def measure(*norms: str, settings: LayerBenchSettings = SETTINGS) -> dict[str, LayerRow]:
    bench = LayerBench([make_norm(norm) for norm in norms], [SHAPE], settings, lambda _: None)
    bench.run()
    return {row.norm: row for row in bench.rows}


def test_bytes_kept_for_backward_are_those_counted_by_hand() -> None:
    rows = measure("bn", "gn", "none")
    tensor, channels = 2 * 8 * 16 * 16 * 4, 8 * 4
    # Input, output (the ReLU's, in place), and float32 mean and 1/std.
    assert rows["bn"].kept_bytes == 2 * tensor + 2 * channels
    assert rows["gn"].kept_bytes == 2 * tensor + 2 * (2 * 4) * 4  # of each sample and group
    assert rows["none"].kept_bytes == tensor  # the ReLU's output alone
    assert rows["bn"].input_bytes == tensor


def test_bandwidth_is_the_fewest_bytes_over_the_time() -> None:
    row = measure("ln")["ln"]
    assert len(row.forward_seconds) == len(row.backward_seconds) == len(row.copy_seconds) == 2
    mean = sum(row.forward_seconds) / 2  # the median of two
    assert row.forward_gb_per_s == pytest.approx(2 * row.input_bytes / mean / 1e9)
    assert row.backward_gb_per_s == pytest.approx(3 * row.input_bytes / (sum(row.backward_seconds) / 2) / 1e9)
    assert row.forward_copy_fraction == pytest.approx(sum(row.copy_seconds) / sum(row.forward_seconds))
    assert (row.way, row.path, row.dtype) == ("native", "native: no fused kernels on cpu", "float32")


def test_input_sets_are_taken_in_turn_and_exceed_the_cache(monkeypatch) -> None:
    assert num_sets(16384, "cpu") == 6
    assert num_sets(2**30, "cpu") == 2
    seen: list[int] = []
    factory = make_norm("none")
    build = type(factory).norm_act

    def spied(self, *arguments, **options):
        layer = build(self, *arguments, **options)
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].data_ptr()))
        return layer

    monkeypatch.setattr(type(factory), "norm_act", spied)
    measure("none")
    timed = seen[1 + 6 :]  # after counting what is kept, and preparing the backward pass
    assert len(set(timed)) == 6
    assert all(first != second for first, second in pairwise(timed))
    assert timed[:6] == timed[6:12]


def test_small_tensors_do_not_need_thousands_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_layers, "CPU_CACHE_BYTES", 2**20)
    assert num_sets(2**13, "cpu") == 256
    assert num_sets(2**13 - 4, "cpu") == 256
    assert num_sets(2 * 4 * 8 * 8 * 2, "cpu") == 256


def test_a_layer_that_fails_is_a_row_with_its_reason(monkeypatch) -> None:
    def explode(*_: object) -> torch.Tensor:
        raise ValueError("cannot normalize this")

    monkeypatch.setattr("normbench.norms.filter_response.FilterResponseNorm.forward", explode)
    rows = measure("frn", "bn")
    assert rows["frn"].failure == "ValueError: cannot normalize this"
    assert rows["frn"].forward_seconds == rows["frn"].backward_seconds == ()
    assert rows["bn"].failure is None
    assert len(rows["bn"].backward_seconds) == 2


def test_an_operation_that_is_not_deterministic_is_timed_without_a_warning(monkeypatch) -> None:
    """As on CUDA, where `lrn`'s backward pass is one; warnings are errors here."""

    forward = FilterResponseNorm.forward

    def forward_and_put(self: FilterResponseNorm, x: torch.Tensor) -> torch.Tensor:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
        return forward(self, x)

    monkeypatch.setattr(FilterResponseNorm, "forward", forward_and_put)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        row = measure("frn")["frn"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert (row.failure, len(row.forward_seconds)) == (None, 2)


def test_bf16_layers_run_as_under_training() -> None:
    row = measure("gn", settings=LayerBenchSettings("cpu", "bf16", rounds=1, block_seconds=0.002))["gn"]
    assert (row.failure, row.dtype, row.input_bytes) == (None, "bfloat16", 2 * 8 * 16 * 16 * 2)


@pytest.mark.gpu
def test_fused_and_native_layers_on_cuda() -> None:
    settings = LayerBenchSettings(device="cuda", precision="bf16", rounds=2, block_seconds=0.01)
    factories = [make_norm(norm) for norm in ("bn", "gn", "frn", "lrn", "none")]
    bench = LayerBench(factories, [SHAPE, (4, 64, 32, 32)], settings, lambda _: None)
    bench.run()
    assert [(row.norm, row.way, row.failure) for row in bench.rows[:9]] == [
        ("bn", "fused", None), ("bn", "native", None), ("gn", "fused", None), ("gn", "native", None),
        ("frn", "fused", None), ("frn", "native", None), ("lrn", "fused", None), ("lrn", "native", None),
        ("none", "native", None),
    ]  # fmt: skip
    assert all(len(row.forward_seconds) == len(row.backward_seconds) == 2 for row in bench.rows)
    by_way = {(row.norm, row.way): row for row in bench.rows if row.shape == SHAPE}
    assert by_way["gn", "fused"].kept_bytes < by_way["gn", "native"].kept_bytes
