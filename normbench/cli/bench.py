"""``normbench bench``: how fast training steps, single layers and networks in use run, measured side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.completion import dataset_names, model_names, norm_names, one_of
from normbench.cli.options import (
    DataDirOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    PrecisionOption,
    RunsDirOption,
    SetOption,
    given,
)

if TYPE_CHECKING:
    from normbench.bench.folder import Results

app = typer.Typer(no_args_is_help=True)

NormsOption = Annotated[
    str, typer.Option(metavar="NORM,...", help="See `normbench list norms`.", autocompletion=norm_names)
]
RoundsOption = Annotated[int | None, typer.Option(min=1, help="How often each case is timed.", show_default=False)]
QuickOption = Annotated[bool, typer.Option("--quick", help="Fewer and shorter rounds; train: no whole epochs.")]


@app.callback()
def _root() -> None:
    """Measure speed: training steps, layers alone, or networks in use."""
    from normbench.experiment.worker_process import set_library_defaults

    set_library_defaults()  # as the processes that train do


@app.command()
def train(
    norms: NormsOption = "bn,gn,none",
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="tutorial (its own loop), eager (fp32), auto (what compare does), graph, compile. "
            "If left out: tutorial,auto and, on cuda, eager.",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[str, typer.Option(metavar="N,...", help="Images per training step.")] = "64",
    runs_at_once: Annotated[
        str, typer.Option(metavar="N,...", help="Trainings at once, of as many seeds, in all variants but tutorial.")
    ] = "1",
    model: Annotated[
        str, typer.Option(help="See `normbench list models`.", autocompletion=model_names)
    ] = "norm_resnet",
    dataset: Annotated[str, typer.Option(help="synthetic or cifar10.", autocompletion=dataset_names)] = "synthetic",
    num_train: Annotated[
        int | None, typer.Option(min=1, help="Images per epoch: 50000 on cuda, fewer on a CPU.", show_default=False)
    ] = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    rounds: RoundsOption = None,
    quick: QuickOption = False,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """Time training steps of norms in several variants, in turn in one process, and compare them.

    --engine and --precision say what auto is, and the precision of graph and compile.

    Example: normbench bench train --norms bn,gn,none --variants tutorial,auto --batch-sizes 64
    """
    from normbench.bench import flags
    from normbench.bench.results import TrainResults
    from normbench.bench.time_steps import TrainBench, TrainBenchSettings
    from normbench.cli.console import note

    sizes = flags.batch_sizes(batch_sizes)
    counts = flags.counts("--runs-at-once", runs_at_once, "1,5,8")
    on_cuda = _uses_cuda(device)
    chosen = flags.names("--variants", variants or ("tutorial,eager,auto" if on_cuda else "tutorial,auto"))
    count = num_train or max(*sizes, 1280 if quick else 50_000 if on_cuda else 6400)
    asked: dict[str, Any] = {
        "norms": flags.names("--norms", norms),
        "model": model,
        "dataset": {"name": dataset, "options": {"num_train": count, "num_test": 500}},
        "device": device,
        "train.precision": precision,
        "train.engine": engine,
    }
    runs = flags.plan_runs(chosen, sizes, given(asked), set_ or [])
    settings = TrainBenchSettings(
        rounds=rounds or (3 if quick else 9),
        block_seconds=(0.1 if quick else 0.3) if on_cuda else (0.5 if quick else 2.0),
        num_epochs=0 if quick else 3 if on_cuda else 1,
        runs_at_once=tuple(counts),
    )
    bench = TrainBench(runs, data_dir, settings, note)
    facts = bench.load_images()

    def collect(started_at: str, interrupted: bool) -> TrainResults:
        return TrainResults(
            started_at=started_at,
            interrupted=interrupted,
            settings={"norms": asked["norms"], "variants": chosen, "batch_sizes": sizes, "quick": quick, **facts},
            environment=_environment(runs[0][1].device),
            rows=bench.rows,
        )

    raise typer.Exit(_measure("train", bench.run, collect, runs_dir, json_output=json_output))


@app.command()
def layers(
    norms: NormsOption = "bn,ln,in,gn,none",
    batch_sizes: Annotated[
        str | None, typer.Option(metavar="N,...", help="64,1024 on cuda, 64 elsewhere.", show_default=False)
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(metavar="CxHxW,...", help="Layers to measure; those of norm_resnet if left out."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=N", help="A constant of normbench/kernels/tiling.py, to tune kernels; repeatable."
        ),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    rounds: RoundsOption = None,
    quick: QuickOption = False,
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """Time each norm with its activation alone, forward and backward, as a share of the copy bandwidth.

    Example: normbench bench layers --norms bn,gn --batch-sizes 1024
    """
    from normbench.bench import flags
    from normbench.bench.results import LayerResults
    from normbench.bench.time_layers import LayerBench, LayerBenchSettings
    from normbench.cli.console import note
    from normbench.worker.own import named_norm

    on_cuda = _uses_cuda(device)
    sizes = flags.batch_sizes(batch_sizes or ("64,1024" if on_cuda else "64"))
    factories = flags.factories(flags.names("--norms", norms), named_norm)
    chosen_device, chosen_precision = flags.device_and_precision(device, precision)
    settings = LayerBenchSettings(
        device=chosen_device,
        precision=chosen_precision,
        rounds=rounds or (5 if quick else 11),
        block_seconds=(0.02 if quick else 0.05) if on_cuda else (0.1 if quick else 0.4),
    )
    chosen_shapes = flags.shapes(shapes, sizes)
    tiling = flags.override_tiling(set_ or [])
    bench = LayerBench(factories, chosen_shapes, settings, note)

    def collect(started_at: str, interrupted: bool) -> LayerResults:
        asked = {"norms": [factory.name for factory in factories], "shapes": chosen_shapes, "quick": quick}
        return LayerResults(
            started_at=started_at,
            interrupted=interrupted,
            settings=asked | {"tiling": tiling} | asdict(settings),
            environment=_environment(chosen_device),
            rows=bench.rows,
        )

    raise typer.Exit(_measure("layers", bench.run, collect, runs_dir, json_output=json_output))


@app.command()
def infer(
    norms: NormsOption = "bn,gn,none",
    model: Annotated[
        str, typer.Option(help="See `normbench list models`.", autocompletion=model_names)
    ] = "norm_resnet",
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="eager, graph (captured, on cuda), compile. If left out: eager and, on cuda, graph.",
            autocompletion=one_of("eager", "graph", "compile"),
            show_default=False,
        ),
    ] = None,
    precisions: Annotated[
        str, typer.Option(metavar="NAME,...", help="fp32, tf32 or bf16.", autocompletion=one_of("fp32", "tf32", "bf16"))
    ] = "fp32,bf16",
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,...", help="Images per batch: 1 for latency, more for throughput.")
    ] = "1,256",
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also export to ONNX and run it (pip install 'normbench\\[onnx]').")
    ] = False,
    device: DeviceOption = None,
    rounds: RoundsOption = None,
    quick: QuickOption = False,
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """Time trained networks in use, norms beside each other, each also folded into its convolutions where it can be.

    Example: normbench bench infer --norms bn,gn,ln --model resnet18
    """
    from normbench.bench import flags
    from normbench.bench.results import InferResults
    from normbench.bench.time_inference import InferBench, InferBenchSettings
    from normbench.cli.console import note

    on_cuda = _uses_cuda(device)
    chosen_device, _ = flags.device_and_precision(device, None)
    if onnx:
        from normbench.bench.onnx_export import require_onnx

        require_onnx()
    settings = InferBenchSettings(
        model=model,
        device=chosen_device,
        variants=flags.inference_variants(variants, chosen_device),
        precisions=tuple(
            flags.device_and_precision(device, name)[1] for name in flags.names("--precisions", precisions)
        ),
        batch_sizes=tuple(flags.batch_sizes(batch_sizes)),
        rounds=rounds or (3 if quick else 11),
        block_seconds=(0.05 if quick else 0.2) if on_cuda else (0.2 if quick else 1.0),
        onnx=onnx,
    )
    bench = InferBench(flags.network_factories(flags.names("--norms", norms), model), settings, note)

    def collect(started_at: str, interrupted: bool) -> InferResults:
        return InferResults(
            started_at=started_at,
            interrupted=interrupted,
            settings={"norms": flags.names("--norms", norms), "quick": quick} | asdict(settings),
            environment=_environment(chosen_device),
            rows=bench.rows,
        )

    raise typer.Exit(_measure("infer", bench.run, collect, runs_dir, json_output=json_output))


def _measure(
    what: str,
    run: Callable[[], None],
    collect: Callable[[str, bool], Results],
    runs_dir: Path,
    *,
    json_output: bool,
) -> int:
    """Run a benchmark, write and print what it measured even if it is interrupted, and return the exit code."""
    from normbench.bench.folder import make_folder, write_results
    from normbench.cli.bench_tables import print_tables
    from normbench.cli.console import note

    started = datetime.now(UTC)
    folder = make_folder(runs_dir, what, started)
    is_done = False
    try:
        run()
        is_done = True
    finally:
        results = collect(started.isoformat(timespec="seconds"), not is_done)
        if is_done or any(row.has_samples for row in results.rows):
            if json_output:
                print(results.model_dump_json(indent=2))
            else:
                print_tables(results)
            write_results(folder, results)
            say = note if json_output else print
            say(f"\nresults.json, table.md and a picture are in {folder}/")
        else:
            folder.rmdir()
    return 0 if all(row.failure is None for row in results.rows) else 1


def _uses_cuda(device: str | None) -> bool:
    """Return whether the benchmark runs on CUDA, as far as the defaults need to know."""
    import torch

    return device == "cuda" or (device in (None, "auto") and torch.cuda.is_available())


def _environment(device: Any) -> dict[str, Any]:
    from normbench.engine.device import describe
    from normbench.runs.provenance import describe_program

    return describe_program() | describe(device)
