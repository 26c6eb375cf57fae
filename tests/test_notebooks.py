"""Every notebook runs from top to bottom, on less data, and is committed without outputs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from local_worker import LocalWorker
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "docs/notebooks").glob("*.ipynb"))
LESS_WORK = """
experiment["norms"] = ["bn", "gn"]
experiment["model"] = "norm_resnet_small"
experiment["dataset"]["options"] = {"num_train": 32, "num_test": 20}
experiment["train"] = {"epochs": 1, "batch_size": 16}
experiment["device"] = "cpu"
"""


def with_less_work(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += LESS_WORK
    return notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for all notebooks: what one has trained, the next does not train again."""
    return tmp_path_factory.mktemp("notebooks")


def name(path: Path) -> str:
    return path.stem


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare", "recorded_runs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_has_no_outputs(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_cells_of_a_notebook_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which also trains, and draws figures but no reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    for function in ("write_report_of", "write_run_report"):
        monkeypatch.setattr(f"normbench.experiment.execute.{function}", lambda _: [])
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: print("shown"))
    names: dict[str, Any] = {}
    for cell in code_cells(with_less_work(path)):
        *statements, last = ast.parse(cell.source).body
        exec(compile(ast.Module(statements, []), str(path), "exec"), names)
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), str(path), "exec"), names)
            continue
        capsys.readouterr()
        value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
        assert value is not None or capsys.readouterr().out, f"no output from:\n{cell.source}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs(path: Path, folder: Path) -> None:
    notebook = with_less_work(path)
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in code_cells(notebook):
        ends_in_a_value = cell.source.splitlines()[-1][0].isalpha() and " = " not in cell.source.splitlines()[-1]
        assert cell.outputs or not ends_in_a_value, f"no output from:\n{cell.source}"
