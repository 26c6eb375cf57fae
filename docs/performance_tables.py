"""Write the tables of docs/performance.md from the records beside it: ``python docs/performance_tables.py PAGE``.

The record at_once.json holds the epochs' times and the timing pass of one comparison, gpus.json is the record of
``tools/gpu_scaling.py``, and amx_accuracy.json holds what pairs of trainings reached. The others, steps.json,
layers.json and trainings_at_once.json, are what `normbench bench` measured, by ``docs/performance_records.py``. Each
table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from normbench.report.columns import format_estimate
from normbench.report.stats import summarize
from normbench.report.verdicts import Outcomes, judge, weigh
from normbench.tasks.classification import TEST_ACCURACY

RECORDS = Path(__file__).parent / "performance"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_tables(page: str) -> str:
    """Return the page with every table between markers written anew."""
    tables = {
        "steps": steps_table,
        "tutorial": tutorial_table,
        "layers": layers_table,
        "at_once": at_once_table,
        "trainings_at_once": trainings_at_once_table,
        "amx_accuracy": amx_accuracy_table,
        "gpus": gpus_table,
    }
    return _BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]]()}{match[3]}", page)


def steps_table() -> str:
    """Return a row per norm: time of a step at both batch sizes, against the `none` of the same run."""
    steps: dict[int, dict[str, tuple[float, float, float, float]]] = {64: {}, 1024: {}}
    memory: dict[str, float] = {}
    paths: dict[str, str] = {}
    for run in _runs("steps"):
        rows = {(row["norm"], row["batch_size"]): row for row in run["rows"] if row["variant"] == "auto"}
        if any(row["variant"] == "tutorial" for row in run["rows"]):
            continue
        for (norm, batch_size), row in rows.items():
            if not row["seconds_per_step"]:
                continue
            without = rows["none", batch_size]["seconds_per_step"]
            steps[batch_size].setdefault(norm, _against(row["seconds_per_step"], without))
            paths[norm] = row["norm_path"] or "-"
            if batch_size == 64:
                memory[norm] = row["peak_memory_mib"]
    header = (
        "norm", "batch 64 (ms/step)", "x none", "above none (µs)", "batch 1024 (ms/step)", "x none", "above none (µs)",
        "peak at 64 (MiB)", "kernels",
    )  # fmt: skip
    order = sorted(steps[64], key=lambda norm: steps[64][norm][0])
    return _table(
        header,
        (
            (
                norm,
                *(cell for size in (64, 1024) for cell in _step_cells(steps[size].get(norm))),
                f"{memory[norm]:.0f}",
                paths[norm].partition(":")[0],
            )
            for norm in order
        ),
    )


def tutorial_table() -> str:
    """Return a row per norm: the tutorial's loop and NormBench's step, in turn in one process."""
    (run,) = [run for run in _runs("steps") if any(row["variant"] == "tutorial" for row in run["rows"])]
    times = {(row["norm"], row["variant"]): row["seconds_per_step"] for row in run["rows"]}
    rows = []
    for norm in dict.fromkeys(row["norm"] for row in run["rows"]):
        loop, ours = times[norm, "tutorial"], times[norm, "auto"]
        quotient = median(slow / fast for slow, fast in zip(loop, ours, strict=True))
        rows.append((norm, f"{1e3 * median(loop):.2f} ± {1e3 * _mad(loop):.2f}", _ms(ours), f"{quotient:.0f}"))
    return _table(("norm", "tutorial's loop (ms/step)", "`auto` (ms/step)", "tutorial / `auto`"), rows)


def layers_table() -> str:
    """Return a row per norm: both passes of its kernels as shares of the copy's bandwidth, on two shapes."""
    (run,) = _runs("layers")
    rows = {(row["norm"], row["way"], tuple(row["shape"])): row for row in run["rows"]}
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in run["rows"]))
    norms = list(dict.fromkeys(row["norm"] for row in run["rows"] if row["way"] == "fused"))
    sizes = [rows["bn", "fused", shape]["input_bytes"] / 2**20 for shape in shapes]
    header = ["norm"]
    for size in sizes:
        header += [f"{size:.0f} MiB: forward (µs)", "share (%)", "backward (µs)", "share (%)", "native / fused"]
    cells = []
    for norm in norms:
        line = [norm]
        for shape in shapes:
            fused, native = rows[norm, "fused", shape], rows[norm, "native", shape]
            copy, num_bytes = median(fused["copy_seconds"]), fused["input_bytes"]
            for part, moved in (("forward_seconds", 2), ("backward_seconds", 3)):
                if not fused[part]:  # the case failed
                    line += ["-", "-"]
                    continue
                seconds = median(fused[part])
                bandwidth_share = moved * num_bytes / seconds / (2 * num_bytes / copy)
                line += [f"{1e6 * seconds:.1f}", f"{100 * bandwidth_share:.0f}"]
            line.append(_times_as_fast(native, fused))
        cells.append(line)
    return _table(header, cells)


def at_once_table() -> str:
    """Return what a step costs alone, by the timing pass, and beside others, while the first runs train together."""
    record = json.loads((RECORDS / "at_once.json").read_text(encoding="utf-8"))
    count, alone = record["runs_at_once"], {row["norm"]: median(row["seconds_per_step"]) for row in record["timed"]}
    first = sorted(record["runs"], key=lambda run: (run["seed"], run["norm"]))[:count]
    # Their first three epochs, in which none of them has ended.
    steps = {(run["norm"], run["seed"]): median(run["train_seconds"][:3]) / record["steps_per_epoch"] for run in first}
    together = 1 / sum(1 / seconds for seconds in steps.values())
    apart = sum(alone[norm] for norm, _ in steps) / count
    rows = [
        (norm, _ms([alone[norm]]), *(_ms([seconds]) for (name, _), seconds in steps.items() if name == norm))
        for norm in alone
    ]
    seeds = [f"seed {seed}, {count} at once (ms/step)" for seed in dict.fromkeys(seed for _, seed in steps)]
    table = _table(("norm", "alone (ms/step)", *seeds), rows)
    gain = f"{apart / together:.2f} times as fast"
    return f"{table}\nA run-step: {_ms([apart])} ms one after another, {_ms([together])} ms at once, {gain}.\n"


def trainings_at_once_table() -> str:
    """Return a row per network and norm: a step of one of N trainings at once, and what the most of them gain."""
    found: dict[tuple[str, str], dict[int, Sequence[float]]] = {}
    for run in _runs("trainings_at_once"):
        for row in run["rows"]:
            case = (f"{run['settings']['model']}, batch {row['batch_size']}", row["norm"])
            found.setdefault(case, {})[row["runs_at_once"]] = row["seconds_per_step"]
    counts = sorted({count for times in found.values() for count in times})
    header = ["network", "norm", "alone (ms/step)", *(f"{count} at once" for count in counts[1:]), "times as fast"]
    lines = []
    for case, times in found.items():
        gain = median(alone / shared for alone, shared in zip(times[counts[0]], times[counts[-1]], strict=True))
        lines.append([*case, *(_ms(times[count]) for count in counts), f"{gain:.2f}"])
    return _table(header, lines)


def amx_accuracy_table() -> str:
    """Return a row per norm: accuracies in bf16 and in fp32 on a CPU, paired by seed, and the verdict of the family."""
    record = json.loads((RECORDS / "amx_accuracy.json").read_text(encoding="utf-8"))
    pairs = record["pairs"]
    scores = {
        norm: [
            {pair["seed"]: pair[precision] for pair in pairs if pair["norm"] == norm} for precision in ("bf16", "fp32")
        ]
        for norm in dict.fromkeys(pair["norm"] for pair in pairs)
    }
    measure = TEST_ACCURACY
    evidence = {norm: weigh(Outcomes(bf16), Outcomes(fp32), measure.margin) for norm, (bf16, fp32) in scores.items()}
    rows = []
    for norm, found in judge({norm: found for norm, found in evidence.items() if found}, can_plan=False).items():
        means = [format_estimate(summarize([*side.values()]), measure) for side in scores[norm]]
        points, adjusted = found.difference.estimate, (found.holm_p, found.equivalence_p)
        rows.append((
            norm,
            *means,
            format_estimate(points, measure, sign=True),
            str(points.n),
            *("-" if p is None else f"{p:.3f}" for p in adjusted),
            found.verdict,
        ))  # fmt: skip
    return _table(
        ("norm", "bf16 (%)", "fp32 (%)", "difference (points)", "pairs", "p", "equivalence p", "verdict"), rows
    )


def gpus_table() -> str:
    """Return a row per call: what a comparison took on so many GPUs, and what share of linear that is."""
    record = json.loads((RECORDS / "gpus.json").read_text(encoding="utf-8"))
    calls = [call for call in record["calls"] if not call["is_warm_up"]]
    fewest: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for call in sorted(calls, key=lambda call: call["gpus"]):
        fewest.setdefault((call["comparison"], call["cluster"]), call)
    digests: dict[str, set[str]] = {}
    for call in calls:
        digests.setdefault(call["comparison"], set()).add(call["digest"])
    rows = []
    for call in sorted(calls, key=lambda call: (call["comparison"], call["cluster"], call["gpus"])):
        base = fewest[call["comparison"], call["cluster"]]
        shares = [
            "-"  # with fewer GPUs it was not measured
            if base is call and call["gpus"] > 1
            else f"{base[key] * base['gpus'] / (call[key] * call['gpus']):.2f}"
            for key in ("seconds", "training_seconds")
        ]
        parts = [f"{call[f'{part}_seconds']:.1f}" for part in ("start", "training", "timing", "report")]
        busy = "-" if call["busy_share"] is None else f"{100 * call['busy_share']:.0f}"
        rows.append(
            (
                f"{call['comparison']}, {call['completed']}/{call['runs']}{', cluster' if call['cluster'] else ''}",
                str(call["gpus"]),
                f"{call['seconds']:.1f}",
                *parts,
                *shares,
                busy,
                f"{3600 * call['runs'] / call['seconds']:.0f}",
                f"{call['driver_peak_mib']:.0f}",
                "yes" if len(digests[call["comparison"]]) == 1 else "no",
            )
        )
    header = (
        "comparison, completed runs", "GPUs", "command to report (s)", "start (s)", "training (s)", "timing (s)",
        "report (s)", "of linear", "training of linear", "GPUs busy (%)", "runs an hour", "driver (MiB)", "same bits",
    )  # fmt: skip
    return _table(header, rows)


def _times_as_fast(native: Mapping[str, Any], fused: Mapping[str, Any]) -> str:
    """Return both passes of torch's layers over both of the kernels; a dash where the former did not run."""
    if not native["backward_seconds"]:
        return "-"
    layers, kernels = (median(row["forward_seconds"]) + median(row["backward_seconds"]) for row in (native, fused))
    return f"{layers / kernels:.1f}"


def _runs(name: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    return found


def _against(seconds: Sequence[float], without: Sequence[float]) -> tuple[float, float, float, float]:
    """Return median and MAD in ms, and the medians over rounds of the quotient and of the difference in µs."""
    pairs = list(zip(seconds, without, strict=True))
    quotient = median(with_norm / none for with_norm, none in pairs)
    above = median(with_norm - none for with_norm, none in pairs)
    return 1e3 * median(seconds), 1e3 * _mad(seconds), quotient, 1e6 * above


def _step_cells(found: tuple[float, float, float, float] | None) -> tuple[str, str, str]:
    """Return dashes for a case that failed."""
    if found is None:
        return "-", "-", "-"
    ms, _, quotient, above = found
    return f"{ms:.3f}", f"{quotient:.2f}", f"{above:.0f}"


def _mad(values: Sequence[float]) -> float:
    middle = median(values)
    return median(abs(value - middle) for value in values)


def _ms(seconds: Sequence[float]) -> str:
    return f"{1e3 * median(seconds):.3f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(fill_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
