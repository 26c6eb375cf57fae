"""Every notebook runs from top to bottom, on less data, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "docs/notebooks").glob("*.ipynb"))
LESS_WORK = """
experiment["norms"] = ["bn", "gn"]
experiment["model"] = "norm_resnet_small"
experiment["dataset"]["options"] = {"num_train": 32, "num_test": 20}
experiment["train"] = {"epochs": 1, "batch_size": 16}
experiment["device"] = "cpu"
"""


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
def test_a_notebook_runs(path: Path, folder: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += LESS_WORK
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in code_cells(notebook):
        ends_in_a_value = cell.source.splitlines()[-1][0].isalpha() and " = " not in cell.source.splitlines()[-1]
        assert cell.outputs or not ends_in_a_value, f"no output from:\n{cell.source}"
