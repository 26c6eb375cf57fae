"""`normbench bench`: what it prints and writes, what it refuses, how it ends."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import TINY

from normbench.bench.folder import read_results
from normbench.bench.time_layers import LayerBenchSettings
from normbench.bench.time_steps import TrainBenchSettings
from normbench.cli.bench_tables import print_tables
from normbench.engine.interleaved_timer import InterleavedTimer
from normbench.kernels import tiling
from normbench.runs.provenance import describe_program

TRAIN = ("bench", "train", "--device", "cpu", "--quick", "--rounds", "1", "--num-train", "8", "--batch-sizes", "4")
LAYERS = ("bench", "layers", "--device", "cpu", "--quick", "--rounds", "1", "--batch-sizes", "2", "--shapes", "4x8x8")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    describe_program.cache_clear()  # it remembers the command of the process, which here are many
    monkeypatch.setattr("normbench.bench.time_layers.CPU_CACHE_BYTES", 2**16)
    for name, kind in (
        ("time_layers.LayerBenchSettings", LayerBenchSettings),
        ("time_steps.TrainBenchSettings", TrainBenchSettings),
    ):
        monkeypatch.setattr(
            f"normbench.bench.{name}", lambda kind=kind, **given: kind(**{**given, "block_seconds": 0.005})
        )


def test_train_prints_a_table_and_writes_a_folder(normbench, tmp_path: Path) -> None:
    result = normbench(*TRAIN, "--norms", "bn,none", "--variants", "tutorial,auto")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "table.md", "times.png"]
    assert str(folder.relative_to(tmp_path)) in result.out
    for word in ("ms/step", "speedup", "drawn by normbench", "convolution", "tutorial: loop, fp32; auto: eager, fp32."):
        assert word in result.out
    assert result.out.count("\n bn ") == 3  # names begin at the left: two variants, and where auto's time goes
    recorded = json.loads((folder / "results.json").read_text())
    assert recorded["environment"]["argv"][:3] == ["normbench", "bench", "train"]
    assert recorded["settings"]["norms"] == ["bn", "none"]
    assert {"torch", "device_name", "num_threads", "normbench", "commit"} <= set(recorded["environment"])


def test_layers_print_json_alone(normbench, tmp_path: Path) -> None:
    result = normbench(*LAYERS, "--norms", "bn,none", "--json")
    assert result.code == 0, result.err
    content = json.loads(result.out)
    assert [(row["norm"], row["shape"]) for row in content["rows"]] == [("bn", [2, 4, 8, 8]), ("none", [2, 4, 8, 8])]
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "results.json").read_text()) == content


def test_layers_run_with_other_tiles_on_demand(normbench, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("PROGRAMS", "FORWARD_TILE"):
        monkeypatch.setattr(tiling, constant, getattr(tiling, constant))  # put back at the end
    result = normbench(*LAYERS, "--norms", "none", "--set", "PROGRAMS=7", "--set", "FORWARD_TILE=512", "--json")
    assert (tiling.PROGRAMS, tiling.FORWARD_TILE) == (7, 512)
    assert json.loads(result.out)["settings"]["tiling"] == {"PROGRAMS": 7, "FORWARD_TILE": 512}


@pytest.mark.parametrize("command", [(*TRAIN, "--variants", "auto"), LAYERS], ids=["train", "layers"])
def test_tables_fit_the_terminal(normbench, monkeypatch, capsys, tmp_path: Path, command: tuple[str, ...]) -> None:
    normbench(*command, "--norms", "evonorm_s0")
    (folder,) = (tmp_path / "runs").iterdir()
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        print_tables(read_results(folder))
        out = capsys.readouterr().out
        tables = [line for line in out.splitlines() if "─" in line or "evonorm_s0 " in line]
        assert tables
        assert max(map(len, tables)) <= width
        assert "…" not in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--norms", "bn,gnn"), "normbench: --norms: unknown norm 'gnn'; did you mean 'gn'?"),
        (("train", "--norms", "bn,gn", "--model", "vit"), "--norms: unknown sequence norm 'gn'"),
        (("train", "--variants", "grap"), "--variants: unknown variant 'grap'; did you mean 'graph'?"),
        (("train", "--batch-sizes", "64,0"), "--batch-sizes: '0' is not a whole number from 1; for example 64,1024"),
        (("train", "--batch-sizes", "x"), "--batch-sizes: 'x' is not a whole number from 1"),
        (("train", "--batch-sizes", "9" * 4400), "is not a whole number from 1"),
        (("train", "--batch-sizes", "999999999"), "num_train=999999999: at least 2,861 GiB of memory; this machine"),
        (("train", "--set", "norms=[]"), "--set norms=[]: bench train takes norms from --norms"),
        (("train", "--set", "dataset.options.seed=3"), "takes dataset.options.seed from --dataset and --num-train"),
        (("train", "--set", "model=vit"), "--set model=vit: bench train takes model from --model"),
        (("train", "--set", "seeds=1000000000"), "at most 1,000,000 seeds"),
        (("layers", "--shapes", "9" * 4400 + "x1x1"), "is not CxHxW, such as 64x32x32"),
        (("layers", "--shapes", "9999999x9999x9999"), "9999999x9999x9999 at batch size 64: a step of the"),
        (("train", "--variants", "graph", "--device", "cpu"), "variant graph: engine graph exists on cuda only"),
        (("train", "--engine", "graph", "--device", "cpu"), "variant auto: engine graph exists on cuda only"),
        (("train", "--model", "resnet"), "unknown model 'resnet'; did you mean 'resnet9'?"),
        (("train", "--model", "stylenet"), "stylenet is no classifier"),
        (("train", "--dataset", "cifar"), "unknown dataset 'cifar'; did you mean 'cifar10'?"),
        (("train", "--precision", "fp16"), "--precision: 'fp16' is not allowed; did you mean 'bf16'?"),
        (("train", "--num-train", "10"), "--batch-sizes: 64 is more than the 10 training images"),
        (("train", "--set", "train.lrr=1"), "--set train.lrr=1: unknown key"),
        (("train", "--norms", ","), "--norms: give at least one name"),
        (("layers", "--norms", "gnn"), "--norms: unknown norm 'gnn'; did you mean 'gn'?"),
        (("layers", "--shapes", "64x32"), "--shapes: '64x32' is not CxHxW, such as 64x32x32"),
        (("layers", "--set", "PROGRAM=2"), "unknown constant of kernels/tiling.py 'PROGRAM'; did you mean 'PROGRAMS'?"),
        (("layers", "--set", "PROGRAMS=few"), "--set PROGRAMS=few: 'few' is not a whole number"),
        (("layers", "--device", "gpu"), "--device: 'gpu' is not allowed; did you mean 'cpu'?"),
        (("layers", "--precision", "tf32", "--device", "cpu"), "precision tf32 exists on cuda only"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_timed(normbench, tmp_path: Path, arguments, expected: str) -> None:
    result = normbench("bench", *arguments)
    assert result.code == 2
    assert expected in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_case_that_fails_makes_the_exit_code_1(normbench, monkeypatch) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("normbench.norms.filter_response.FilterResponseNorm.forward", explode)
    result = normbench(*LAYERS, "--norms", "frn,bn")
    assert result.code == 1
    assert "frn, native, 2x4x8x8: RuntimeError: no such thing" in result.out


def test_other_commands_pass_over_a_benchmarks_folder(quick, monkeypatch, tmp_path: Path) -> None:
    assert quick(*LAYERS, "--norms", "bn").code == 0
    assert "no runs there" in quick("ls").err
    (tmp_path / "tiny.yaml").write_text(TINY.replace("bn, gn", "bn"), encoding="utf-8")
    assert quick("compare", "tiny.yaml").code == 0
    listed = json.loads(quick("ls", "--json").out)["experiments"]
    assert [entry["experiment"] for entry in listed] == ["tiny"]
    monkeypatch.setattr("normbench.report.write_report", lambda folder, baseline: [folder])
    *of_runs, of_experiment = quick("plots").out.split()
    assert of_experiment == "runs/tiny"
    assert all(path.startswith("runs/tiny/bn-") for path in of_runs)


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """Take SIGINT as at a terminal, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
@pytest.mark.parametrize("command", [(*TRAIN, "--variants", "auto"), LAYERS], ids=["train", "layers"])
def test_ctrl_c_keeps_what_was_measured(normbench, monkeypatch, tmp_path: Path, command: tuple[str, ...]) -> None:
    measure = InterleavedTimer.rounds

    def interrupted(self: InterleavedTimer[int], count: int) -> Iterator[int]:
        for done in measure(self, count):
            yield done
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(InterleavedTimer, "rounds", interrupted)
    result = normbench(*command, "--rounds", "20", "--norms", "bn")
    assert result.code == 130
    assert "Traceback" not in result.err
    assert ", interrupted" in result.out
    (folder,) = (tmp_path / "runs").iterdir()
    recorded = json.loads((folder / "results.json").read_text())
    assert recorded["interrupted"] is True
    (row,) = recorded["rows"]
    assert len(row.get("seconds_per_step") or row["forward_seconds"]) == 2


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_before_anything_is_measured_leaves_no_folder(normbench, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("normbench.bench.time_layers._ShapeBench.run", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert normbench(*LAYERS).code == 130
    assert list((tmp_path / "runs").iterdir()) == []
