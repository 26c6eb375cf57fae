"""A benchmark's folder: the results, a table and a picture, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.bench.at_once_plot import draw_at_once
from normbench.bench.dot_plot import draw_infer, draw_layers, draw_train
from normbench.bench.results import InferResults, LayerResults, TrainResults
from normbench.bench.tables import BenchTable, infer_tables, layer_tables, to_markdown, train_tables
from normbench.errors import FolderError, RunError
from normbench.report.figure_style import save_figure
from normbench.runs.atomic import write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS_FILE = "results.json"
TABLE_FILE = "table.md"

Results = TrainResults | LayerResults | InferResults

_PICTURES = {"train": "times", "layers": "bandwidth", "infer": "times"}
"""The name of each benchmark's picture."""


def make_folder(runs_dir: Path, bench: str, started: datetime) -> Path:
    """Make and return ``runs_dir/bench-<what>-<UTC time>``, which nothing else writes.

    Raises:
        FolderError: it cannot be made.
    """
    stem = f"bench-{bench}-{started.astimezone(UTC):%Y%m%dt%H%M%Sz}"
    for number in range(1, 100):
        folder = runs_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise FolderError(f"{folder}: cannot be made: {error.strerror or error}") from error
        return folder
    raise FolderError(f"{runs_dir / stem}: taken, and so are 98 more of its name")


def write_results(folder: Path, results: Results) -> list[Path]:
    """Write `results` as JSON, Markdown and a picture, and return the files.

    Raises:
        FolderError: the folder cannot be written.
    """
    try:
        write_text_atomically(folder / RESULTS_FILE, results.model_dump_json(indent=2) + "\n")
        figure = _draw(results)
        stem = folder / _PICTURES[results.bench]
        pictures = save_figure(figure, stem, (".png",)) if figure else []
        if isinstance(results, TrainResults) and (at_once := draw_at_once(results)):
            pictures += save_figure(at_once, folder / "at_once", (".png",))
        page = to_markdown(
            title_of(results), facts_of(results), tables_of(results), pictures[0].name if pictures else None
        )
        write_text_atomically(folder / TABLE_FILE, page)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return [folder / RESULTS_FILE, folder / TABLE_FILE, *pictures]


def read_results(folder: Path) -> Results:
    """Read a benchmark back.

    Raises:
        RunError: there is none, or it cannot be understood.
    """
    try:
        text = (folder / RESULTS_FILE).read_text(encoding="utf-8")
        kinds = (TrainResults, LayerResults, InferResults)
        kind = next(
            (kind for kind in kinds if f'"bench": "{kind.model_fields["bench"].default}"' in text), LayerResults
        )
        return kind.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: not a readable benchmark: {error}") from error


def tables_of(results: Results) -> list[BenchTable]:
    """Return the tables of any kind of results."""
    if isinstance(results, InferResults):
        return infer_tables(results)
    return train_tables(results) if isinstance(results, TrainResults) else layer_tables(results)


def _draw(results: Results) -> Figure | None:
    if isinstance(results, InferResults):
        return draw_infer(results)
    return draw_train(results) if isinstance(results, TrainResults) else draw_layers(results)


def title_of(results: Results) -> str:
    """Return a title that says what was measured, and where."""
    if isinstance(results, LayerResults):
        what = "Layers alone"
    else:
        of = "Training steps of" if isinstance(results, TrainResults) else "In use:"
        what = f"{of} {results.settings['model']}"
    return f"{what} on {results.environment['device_name']}" + (", interrupted" if results.interrupted else "")


def facts_of(results: Results) -> list[str]:
    """Return a line each for the device with its versions, the images, the settings and the command."""
    environment: Mapping[str, Any] = results.environment
    versions = [f"torch {environment['torch']}"]
    versions += [f"{name} {environment[name]}" for name in ("cuda", "cudnn") if environment.get(name)]
    commit = environment.get("commit")
    where = f"{environment['device_name']} ({environment['device']}), {', '.join(versions)}"
    if environment["device"] == "cpu":
        where += f", {environment['num_threads']} threads"
    facts = [where]
    if results.settings.get("dataset_source"):
        facts.append(f"{results.settings['num_train']:,} training images: {results.settings['dataset_source']}")
    facts.append(
        f"{results.settings['rounds']} rounds; {results.started_at}" + (f"; commit {commit}" if commit else "")
    )
    facts.append(" ".join(environment["argv"]))
    return facts
