"""Measure how a comparison scales over the GPUs of one machine, in one call, and draw what was measured.

    python tools/gpu_scaling.py measure gpus.json --gpus 1,2,4,8 --cluster
    python tools/gpu_scaling.py draw gpus.json docs/performance/gpus

For each number of GPUs and each comparison (`all` with five seeds, `tutorial` with twenty) a process of its own calls
`normbench.compare`; with ``--cluster`` once more on a Ray cluster of this machine. Recorded are the seconds from
command to report, apart for start, training, timing pass and report; how busy nvidia-smi says the GPUs were while runs
trained; the driver's peak memory; and a digest of all losses and results. One call before the others, with one seed,
compiles the kernels; it is recorded as ``is_warm_up``. The record is written anew after each call, so that a time limit
costs no more than the call that it ends, and one that is there goes on, without another warm-up and without the calls
that it has: comparisons with settings of their own (``--set``, which each call records) come to one record by a command
each.
`docs/performance_tables.py` makes the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

COMPARISONS = ("all:5", "tutorial:20")
_TIMES = {"train_seconds", "epoch_seconds", "startup_seconds", "images_per_second", "peak_memory_mib", "test_seconds"}
_SETTING = ("comparison", "seeds", "gpus", "cluster", "settings")
"""What tells one call from another, but for the warm-up."""
_BEGAN = "GPU_SCALING_BEGAN"
_MIB = 2**20


def main() -> None:
    """Measure, or draw, or, in a process that this program starts, carry out one comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("record", type=Path)
    measuring.add_argument("--gpus", default="1,2,4,8", help="numbers of GPUs, in the order in which they are tried")
    measuring.add_argument("--comparison", action="append", metavar="CONFIG:SEEDS", help="may be given several times")
    measuring.add_argument("--cluster", action="store_true", help="each also with --cluster local")
    one = commands.add_parser("one")
    one.add_argument("folder", type=Path)
    one.add_argument("config")
    one.add_argument("seeds", type=int)
    one.add_argument("--in-cluster", action="store_true")
    for command in (measuring, one):
        command.add_argument("--data-dir", type=Path)
        command.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE")
    drawing = commands.add_parser("draw")
    drawing.add_argument("record", type=Path)
    drawing.add_argument("stem", type=Path, help="the picture's path without its suffix")
    options = parser.parse_args()
    if options.command == "measure":
        measure(options)
    elif options.command == "draw":
        draw(json.loads(options.record.read_text(encoding="utf-8")), options.stem)
    else:
        found = compare(
            options.config, options.seeds, options.folder, data_dir=options.data_dir, settings=options.settings,
            in_cluster=options.in_cluster, began=float(os.environ[_BEGAN]),
        )  # fmt: skip
        print(json.dumps(found))


def measure(options: argparse.Namespace) -> None:
    """Carry out all comparisons and write the record after each."""
    numbers = [int(number) for number in options.gpus.split(",")]
    comparisons = [(name, int(seeds)) for name, _, seeds in
                   (text.rpartition(":") for text in options.comparison or COMPARISONS)]  # fmt: skip
    calls = [(comparisons[0][0], 1, max(numbers), False, True)]
    calls += [
        (name, seeds, number, in_cluster, False)
        for name, seeds in comparisons
        for number in numbers
        for in_cluster in ([False, True] if options.cluster else [False])
    ]
    record: dict[str, Any] = {"schema_version": 1, "calls": []}
    if options.record.exists():
        record = json.loads(options.record.read_text(encoding="utf-8"))
        done = [[call.get(key) for key in _SETTING] for call in record["calls"] if not call["is_warm_up"]]
        calls = [call for call in calls[1:] if [*call[:4], options.settings] not in done]
    for name, seeds, number, in_cluster, is_warm_up in calls:
        more = [*(["--in-cluster"] if in_cluster else []), *(f"--set={text}" for text in options.settings)]
        more += ["--data-dir", str(options.data_dir)] if options.data_dir else []
        call = {"comparison": name, "seeds": seeds, "gpus": number, "cluster": in_cluster, "is_warm_up": is_warm_up,
                "settings": options.settings}  # fmt: skip
        call |= measure_call(name, seeds, number, more)
        record["calls"].append(call)
        record["environment"] = call.pop("environment")
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(call), flush=True)


def measure_call(config: str, seeds: int, num_gpus: int, more: Sequence[str]) -> dict[str, Any]:
    """Carry out one comparison in a process of its own that sees so many GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else None
    gpus = (visible or [str(index) for index in range(num_gpus)])[:num_gpus]
    with tempfile.TemporaryDirectory(prefix="gpu-scaling-") as folder, busy_samples(gpus) as samples:
        began = time.time()
        command = [sys.executable, __file__, "one", folder, config, str(seeds), *more]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus), _BEGAN: repr(began)}
        found: dict[str, Any] = json.loads(
            subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            .stdout.strip().splitlines()[-1]
        )  # fmt: skip
        seconds = time.time() - began
    first, last = found.pop("trained_from"), found.pop("trained_until")
    shares = [share for at, share in samples if first <= at <= last]
    return found | {
        "seconds": seconds,
        "start_seconds": first - began,
        "training_seconds": last - first,
        "report_seconds": seconds - (last - began) - found["timing_seconds"],
        "busy_share": fmean(shares) if shares else None,
    }


def compare(
    config: str,
    seeds: int,
    folder: Path,
    *,
    began: float,
    data_dir: Path | None = None,
    settings: Sequence[str] = (),
    in_cluster: bool = False,
) -> dict[str, Any]:
    """Carry out one comparison in this process and return when it did what, on the clock of `time.time`."""
    import normbench
    from normbench.experiment.runner import RunEnded, RunStarted
    from normbench.experiment.timing_pass import TimingEnded, TimingStarted

    started: list[float] = []
    ended: list[float] = []
    timed: list[float] = []

    def listen(event: Any) -> None:
        for kind, times in ((RunStarted, started), (RunEnded, ended), ((TimingStarted, TimingEnded), timed)):
            if isinstance(event, kind):
                times.append(time.time())

    result = normbench.compare(
        config, seeds=seeds, runs_dir=folder, data_dir=data_dir, settings=settings, listener=listen,
        cluster="local" if in_cluster else None,
    )  # fmt: skip
    runs = result.experiment.runs
    return {
        "runs": len(runs),
        "completed": sum(run.is_completed for run in runs),
        "trained_from": started[0],
        "trained_until": ended[-1],
        "timing_seconds": sum(last - first for first, last in zip(timed[::2], timed[1::2], strict=True)),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MIB,
        "digest": digest(runs),
        "environment": {key: runs[0].environment.get(key) for key in ("device_name", "torch", "cuda", "source_sha256")},
    }


def digest(runs: Sequence[Any]) -> str:
    """Return a SHA-256 of the losses and results of `runs`, which is the same for the same bits."""
    found = hashlib.sha256()
    for run in sorted(runs, key=lambda run: run.run_id):
        summary = run.summary.model_dump(mode="json") if run.summary else {}
        kept = {key: value for key, value in summary.items() if key not in _TIMES}
        found.update(f"{run.run_id} {run.status.state} {json.dumps(kept, sort_keys=True)}\n".encode())
        found.update((run.folder / "steps.csv").read_bytes())
    return found.hexdigest()


@contextmanager
def busy_samples(gpus: Sequence[str]) -> Iterator[list[tuple[float, float]]]:
    """Yield a list that grows by (time, share of a moment in which a GPU worked), ten a second of each of `gpus`."""
    samples: list[tuple[float, float]] = []
    command = ["nvidia-smi", "-i", ",".join(gpus), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen([*command, "-lms", "100"], stdout=subprocess.PIPE, text=True)
    except OSError:
        yield samples  # there is no such program, and so no GPU of NVIDIA
        return

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdecimal():
                samples.append((time.time(), int(line) / 100))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield samples
    finally:
        process.terminate()
        process.wait()
        reader.join()


def draw(record: Mapping[str, Any], stem: Path) -> None:
    """Draw runs an hour, from command to report, against the number of GPUs; dashed is what linear would be."""
    from matplotlib.figure import Figure

    from normbench.report.figure_style import WIDTH, add_heading, figure_style, fix_layout, label_ends, save_figure
    from normbench.report.palette import COLORS, MARKERS

    lines: dict[str, list[tuple[int, float]]] = {}
    for call in record["calls"]:
        if not call["is_warm_up"]:
            name = f"{call['comparison']}, {call['runs']} runs{', cluster' if call['cluster'] else ''}"
            lines.setdefault(name, []).append((call["gpus"], 3600 * call["runs"] / call["seconds"]))
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.4))
        axes, ends = figure.subplots(), []
        for position, (name, points) in enumerate(lines.items()):
            points.sort()
            color = COLORS[position % len(COLORS)]
            numbers, rates = zip(*points, strict=True)
            axes.plot(numbers, rates, color=color, marker=MARKERS[position % len(MARKERS)])
            axes.plot(numbers, [rates[0] * number / numbers[0] for number in numbers], color=color, ls="--", lw=0.8)
            ends.append((rates[-1], name, color))
        largest = max(number for points in lines.values() for number, _ in points)
        axes.set_xticks(sorted({number for points in lines.values() for number, _ in points}))
        axes.set_xlim(0, largest * 1.02)
        axes.set_ylim(0, None)
        axes.set_xlabel("GPUs of one machine")
        axes.set_ylabel("runs an hour, from command to report")
        label_ends(axes, ends)
        add_heading(figure, f"{record['environment']['device_name']}; dashed: linear")
        save_figure(fix_layout(figure), stem, (".png",))


if __name__ == "__main__":
    main()
