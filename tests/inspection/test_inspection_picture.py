"""The cube picture says what the registry says."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from normbench.errors import ConfigError, FolderError
from normbench.inspection.cubes import CELLS, PART, draw_cubes
from normbench.inspection.picture import UNUSUAL_CAPTIONS, draw_norms, extents, panel
from normbench.norms import NORMS


@pytest.mark.parametrize(
    ("axes", "num_cells"),
    [
        (("N", "H", "W"), CELLS[0] * CELLS[2]),
        (("N/K", "H", "W"), PART[0] * CELLS[2]),
        (("C", "H", "W"), CELLS[1] * CELLS[2]),
        (("C/G", "H", "W"), PART[1] * CELLS[2]),
        (("H", "W"), CELLS[2]),
        (("C",), CELLS[1]),
    ],
)
def test_colored_cells_are_those_that_share_a_statistic(axes: tuple[str, ...], num_cells: int) -> None:
    reach = extents(axes)
    assert sum(reach.contains(cell) for cell in product(*(range(length) for length in CELLS))) == num_cells


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_has_a_panel_of_its_statistics(name: str) -> None:
    shown = panel(name, NORMS[name])
    assert len(shown.sets) == len(NORMS[name].axis_sets)
    assert shown.caption


def test_unusual_captions_belong_to_norms() -> None:
    assert set(UNUSUAL_CAPTIONS) <= set(NORMS)


def test_figure_names_every_norm_and_keeps_its_text_inside() -> None:
    figure = draw_cubes([panel(name, norm) for name, norm in NORMS.items()])
    texts = figure.axes[0].texts
    assert {norm.label for norm in NORMS.values()} <= {text.get_text() for text in texts}
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    for text in texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width, text.get_text()
        assert 0 <= box.y0 <= box.y1 <= height, text.get_text()


def test_png_and_pdf_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    draw_norms(["bn", "sn"], tmp_path / "axes.png")
    draw_norms(["bn"], tmp_path / "axes.pdf")
    assert {path.name for path in tmp_path.iterdir()} == {"axes.png", "axes.pdf"}
    assert (tmp_path / "axes.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "axes.pdf").read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in (tmp_path / "axes.pdf").read_bytes()


def test_wrong_suffix_and_unwritable_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.pdf"):
        draw_norms(["bn"], tmp_path / "axes.jpg")
    with pytest.raises(FolderError, match="cannot write"):
        draw_norms(["bn"], tmp_path / "missing" / "axes.png")


def test_drawing_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from normbench.inspection.picture import draw_norms; "
        f"draw_norms(['bn'], pathlib.Path({str(tmp_path / 'a.png')!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
