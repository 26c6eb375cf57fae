"""Networks in use: folding is exact, and what is measured is what was asked for."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from normbench import kernels
from normbench.bench.folder import read_results, tables_of, write_results
from normbench.bench.folding import affine_of, fold
from normbench.bench.results import InferResults, InferRow, with_inference_ratios
from normbench.bench.time_inference import InferBench, InferBenchSettings
from normbench.models import build_model
from normbench.norms import NORMS, SEQUENCE_NORMS, make_norm


def trained(name: str, num_channels: int = 8, size: int = 6) -> nn.Module:
    """A layer with parameters and running statistics of its own."""
    torch.manual_seed(0)
    layer = make_norm(name)(num_channels, size=(size, size)).train()
    layer(2 * torch.randn(4, num_channels, size, size) + 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return layer.eval()


@pytest.mark.parametrize("name", NORMS)
def test_the_catalog_says_of_every_norm_whether_it_folds(name: str) -> None:
    is_affine = affine_of(trained(name), 8, (6, 6)) is not None
    assert is_affine is (NORMS[name].folds_into_conv or name == "none")


def test_no_norm_of_sequences_follows_a_convolution() -> None:
    assert not any(entry.folds_into_conv for entry in SEQUENCE_NORMS.values())


def test_the_affine_map_of_bn_is_its_formula() -> None:
    layer = trained("bn")
    found = affine_of(layer, 8, (6, 6))
    assert found is not None
    mean, variance, weight, bias = (
        tensor.detach().double().numpy() for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    scale = weight / np.sqrt(variance + layer.eps)
    np.testing.assert_allclose(found[0], scale, rtol=1e-9)
    np.testing.assert_allclose(found[1], bias - mean * scale, rtol=1e-8, atol=1e-12)


def network(model: str, norm: str) -> nn.Module:
    torch.manual_seed(0)
    net = build_model(model, norm=make_norm(norm), num_classes=10, image_size=32)
    net.train()(torch.randn(8, 3, 32, 32))
    return net.eval()


@pytest.mark.parametrize(
    ("model", "norm", "num_folded"),
    [("norm_resnet_small", "bn", 4), ("norm_resnet_small", "brn", 4), ("vgg_a", "bn", 8),
     ("resnet9", "bn", 8), ("resnet18", "bn", 20)],
)  # fmt: skip
def test_a_folded_network_says_the_same_with_one_layer_for_two(model: str, norm: str, num_folded: int) -> None:
    net = network(model, norm)
    images = torch.randn(5, 3, 32, 32)
    folded = fold(net, torch.randn(4, 3, 32, 32))
    assert folded is not None
    assert folded.num_layers == num_folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.model.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded.model(images), net(images), rtol=1e-4, atol=1e-5)
    num_parameters = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in folded.model.parameters())
    assert num_parameters > 0  # a scale and a shift became a bias


@pytest.mark.parametrize("norm", ["gn", "none", "evonorm_b0", "bn_nostats"])
def test_what_is_not_affine_is_not_folded(norm: str) -> None:
    assert fold(network("norm_resnet_small", norm), torch.randn(4, 3, 32, 32)) is None


class Shared(nn.Module):
    """A network that uses a convolution's output beside its norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


def test_a_folding_that_would_change_the_network_is_refused() -> None:
    assert fold(Shared().eval(), torch.randn(4, 3, 8, 8)) is None


SETTINGS = {"model": "norm_resnet_small", "device": "cpu", "rounds": 2, "block_seconds": 0.01}


@pytest.fixture(scope="module")
def rows() -> tuple[InferRow, ...]:
    settings = InferBenchSettings(**SETTINGS, variants=("eager",), precisions=("fp32", "bf16"), batch_sizes=(1, 4))  # type: ignore[arg-type]
    broken = SimpleNamespace(name="broken")
    bench = InferBench([make_norm("bn"), make_norm("gn"), broken], settings, lambda _: None)  # type: ignore[list-item]
    bench.run()
    return bench.rows


def test_every_network_is_timed_in_every_way_and_a_failure_is_a_row(rows: tuple[InferRow, ...]) -> None:
    timed = {(row.norm, row.folded, row.precision, row.batch_size) for row in rows if len(row.seconds_per_batch) == 2}
    expected = {
        (norm, folded, precision, size)
        for norm, folded in (("bn", False), ("bn", True), ("gn", False))
        for precision in ("fp32", "bf16")
        for size in (1, 4)
    }
    assert timed == expected
    assert all(row.failure for row in rows if row.norm == "broken")
    by_key = {(row.norm, row.folded, row.precision, row.batch_size): row for row in rows}
    bn, folded = by_key["bn", False, "fp32", 4], by_key["bn", True, "fp32", 1]
    assert bn.ratio_to_bn == 1
    assert bn.images_per_second == pytest.approx(4 / np.median(bn.seconds_per_batch))
    assert folded.fold_difference is not None
    assert folded.fold_difference < 1e-5


def test_ratios_are_within_a_round_and_to_bn_not_folded() -> None:
    def row(norm: str, seconds: tuple[float, ...], *, folded: bool = False) -> InferRow:
        facts = {"norm": norm, "variant": "eager", "precision": "fp32", "batch_size": 1}
        return InferRow(**facts, folded=folded, seconds_per_batch=seconds)

    found = with_inference_ratios([row("bn", (1.0, 2.0, 4.0)), row("bn", (1, 1, 1), folded=True), row("gn", (3, 4, 4))])
    assert [each.ratio_to_bn for each in found] == [1, 0.5, 2]


def test_results_are_written_read_and_shown(rows: tuple[InferRow, ...], tmp_path) -> None:
    environment = {"device_name": "a CPU", "device": "cpu", "torch": "2", "num_threads": 1, "argv": ["normbench"]}
    results = InferResults(
        started_at="2026-01-01T00:00:00+00:00",
        settings={"model": "norm_resnet_small", "rounds": 2},
        environment=environment,
        rows=rows,
    )
    files = write_results(tmp_path, results)
    assert [file.name for file in files] == ["results.json", "table.md", "times.png"]
    assert read_results(tmp_path) == results
    tables = tables_of(results)
    assert [table.title for table in tables][:2] == ["Batch 1, fp32: latency", "Batch 4, fp32: throughput"]
    assert "eager, folded" in (tmp_path / "table.md").read_text()
    assert any("broken" in note for note in tables[0].notes)


def test_the_command_measures_and_refuses_what_there_is_not(normbench) -> None:
    told = normbench("bench", "infer", "--variants", "graph", "--device", "cpu")
    assert (told.code, "unknown variant on cpu 'graph'" in told.err) == (2, True)
    told = normbench("bench", "infer", "--model", "stylenet", "--device", "cpu")
    assert (told.code, "is no classifier" in told.err) == (2, True)
    told = normbench("bench", "infer", "--norms", "custom_bm", "--device", "cpu")
    assert (told.code, "did you mean" in told.err) == (2, True)
    told = normbench(
        "bench", "infer", "--norms", "bn", "--model", "norm_resnet_small", "--device", "cpu", "--rounds", "1",
        "--batch-sizes", "1", "--precisions", "fp32", "--quick", "--json",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert [row["folded"] for row in json.loads(told.out)["rows"]] == [False, True]


def test_onnx_that_is_not_installed_is_told_with_the_way_to_it(normbench, monkeypatch) -> None:
    monkeypatch.setattr("normbench.bench.onnx_export.find_spec", lambda _: None)
    told = normbench("bench", "infer", "--onnx", "--device", "cpu")
    assert told.code == 3
    assert "pip install 'normbench[onnx]'" in told.err


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["norm_resnet", "resnet9", "vgg_a"])
def test_a_folded_network_says_the_same_in_16_bits_on_a_gpu(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    biased = []
    convolve = kernels.convolve
    monkeypatch.setattr(kernels, "convolve", lambda *args, **kwargs: biased.append(kwargs) or convolve(*args, **kwargs))
    net, images = network(model, "bn"), torch.randn(16, 3, 32, 32)
    folded = fold(net, images[:4])
    assert folded is not None
    used = folded.model.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        expected = net(images)
        with torch.autocast("cuda", torch.bfloat16):
            found = used(images.cuda().to(memory_format=torch.channels_last))
    assert ((found.float().cpu() - expected).norm() / expected.norm()).item() < 5e-2
    assert len(biased) == folded.num_layers - 1  # and the first, of images
    assert all(each["bias"] is not None for each in biased)


@pytest.mark.gpu
def test_captured_networks_are_timed_beside_eager_ones_on_a_gpu() -> None:
    settings = InferBenchSettings(
        **{**SETTINGS, "device": "cuda"}, variants=("eager", "graph"), precisions=("bf16",), batch_sizes=(1, 16)
    )  # type: ignore[arg-type]
    bench = InferBench([make_norm("bn"), make_norm("gn")], settings, lambda _: None)
    bench.run()
    assert [row.failure for row in bench.rows] == [None] * 12
    assert all(row.peak_memory_mib for row in bench.rows)
    times = {(row.norm, row.folded, row.variant, row.batch_size): row.ms_per_batch for row in bench.rows}
    assert times["bn", False, "graph", 1] < times["bn", False, "eager", 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_network_says_what_torch_says_and_costs_the_nodes_of_its_norm() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from normbench.bench.onnx_export import onnx_row

    images = torch.randn(1, 3, 32, 32)
    row = InferRow(norm="", variant="", precision="", batch_size=0)
    found = {norm: onnx_row(row, network("norm_resnet_small", norm), images, 2, 0.01) for norm in ("bn", "gn", "none")}
    assert all(each.failure is None for each in found.values()), found
    assert all(each.onnx_difference is not None and each.onnx_difference < 1e-4 for each in found.values())
    nodes = {norm: each.onnx_nodes for norm, each in found.items()}
    assert nodes["none"] <= nodes["bn"] < nodes["gn"]  # type: ignore[operator]
