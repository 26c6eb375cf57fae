"""Keep what ``normbench bench`` measured as a record of docs/performance.md, and write the page's tables from it.

``python docs/performance_records.py NAME COMMIT RESULTS...`` writes docs/performance/NAME.json, where NAME is steps,
layers or trainings_at_once, from the results.json of the benchmarks, without what the page does not need and with times
to four digits. COMMIT is what was measured: where a benchmark ran there may be no git. Of trainings at once there is
also a picture of each network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from performance_tables import RECORDS, fill_tables

from normbench.bench.at_once_plot import draw_at_once
from normbench.bench.results import TrainResults
from normbench.report.figure_style import save_figure

PAGE = RECORDS.with_suffix(".md")
_ENVIRONMENT = (
    "normbench", "source_sha256", "python", "torch", "device_name", "cuda", "cudnn", "triton", "driver",
)  # fmt: skip
_ROWS = {
    "steps": ("norm", "variant", "batch_size", "norm_path", "peak_memory_mib", "seconds_per_step"),
    "layers": (
        "norm", "way", "path", "shape", "input_bytes", "kept_bytes", "forward_seconds", "backward_seconds",
        "copy_seconds",
    ),
    "trainings_at_once": (
        "norm", "variant", "engine", "precision", "batch_size", "steps_per_epoch", "runs_at_once", "seconds_per_step",
    ),
}  # fmt: skip


def record_of(name: str, commit: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return the record, a row a line.

    Raises:
        SystemExit: the benchmarks ran on machines or versions that differ, so that one page cannot show them together.
    """
    environments = [{key: result["environment"].get(key) for key in _ENVIRONMENT} for result in results]
    if any(environment != environments[0] for environment in environments):
        sys.exit("the results are of different machines or versions")
    runs = ",\n".join(_run(result, _ROWS[name]) for result in results)
    return f'{{"environment":{_line(environments[0] | {"commit": commit})},"runs":[\n{runs}]}}\n'


def _run(result: Mapping[str, Any], columns: Sequence[str]) -> str:
    rows = ",\n".join(_line({column: _rounded(row[column], column) for column in columns}) for row in result["rows"])
    told = {"command": _command(result["environment"]["argv"]), "started_at": result["started_at"]}
    if "runs_at_once" in columns:
        told["settings"] = {key: result["settings"][key] for key in ("model", "num_train")}
    facts = _line(told)
    return f'{facts[:-1]},"rows":[\n{rows}]}}'


def draw_trainings_at_once(folder: Path) -> list[Path]:
    """Draw a picture for each network in trainings_at_once.json, beside it: epochs an hour by their number."""
    record = json.loads((folder / "trainings_at_once.json").read_text(encoding="utf-8"))
    paths = []
    for run in record["runs"]:
        figure = draw_at_once(TrainResults.model_validate(run | {"environment": record["environment"]}))
        assert figure is not None, "a case was timed with one number alone"
        paths += save_figure(figure, folder / f"at_once_{run['settings']['model']}", (".png",))
    return paths


def _command(words: Sequence[str]) -> str:
    """Return the command without the folder that it wrote to."""
    kept = list(words)
    if "--runs-dir" in kept:
        position = kept.index("--runs-dir")
        del kept[position : position + 2]
    return " ".join(kept)


def _rounded(value: Any, column: str) -> Any:
    if column.endswith("_seconds") or column.startswith("seconds_"):
        return [float(f"{seconds:.4g}") for seconds in value]
    return round(value, 1) if isinstance(value, float) else value


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    name, commit, *files = sys.argv[1:]
    results = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    (RECORDS / f"{name}.json").write_text(record_of(name, commit, results), encoding="utf-8")
    if name == "trainings_at_once":
        draw_trainings_at_once(RECORDS)
    PAGE.write_text(fill_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
