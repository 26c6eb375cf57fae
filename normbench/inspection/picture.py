"""From the registry to the picture of what each norm averages over. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from normbench.errors import ConfigError, FolderError
from normbench.inspection.cubes import CubePanel, Extent, Extents, draw_cubes
from normbench.norms import NORMS, Norm
from normbench.norms.entry import UNKNOWN
from normbench.report.figure_style import save_figure

SUFFIXES = (".png", ".pdf")
UNUSUAL_CAPTIONS = {
    "ibn": "H, W for half of the channels  +  N, H, W for the others",
    "lrn": "C/n: neighboring channels",
    "frozen_bn": "fixed statistics",
    "none": "no normalization",
}


def draw_norms(names: Iterable[str], path: Path, norms: Mapping[str, Norm] = NORMS) -> None:
    """Draw the norms called `names` in `norms` into `path`, a .png or .pdf file.

    Raises:
        ConfigError: the file is of another kind.
        FolderError: it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}: the name must end in {' or '.join(SUFFIXES)}")
    figure = draw_cubes([panel(name, norms[name]) for name in names])
    try:
        save_figure(figure, path.with_suffix(""), (path.suffix,))
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror or error}") from error


def panel(name: str, norm: Norm) -> CubePanel:
    """Return what the picture shows of one norm."""
    sets = tuple(extents(axes) for axes in norm.axis_sets)
    axes_in_words = "  +  ".join(", ".join(axes) for axes in norm.axis_sets)
    caption = UNUSUAL_CAPTIONS.get(name) or axes_in_words or ("not known" if norm.axes == UNKNOWN else "no statistics")
    return CubePanel(norm.label, caption, sets)


def extents(axes: tuple[str, ...]) -> Extents:
    """Return how far a set reaches that runs over `axes`, one of `Norm.axis_sets`."""

    def along(axis: str) -> Extent:
        if axis in axes:
            return "all"
        return "part" if any(part.startswith(f"{axis}/") for part in axes) else "one"

    return Extents(along("N"), along("C"), along("H"))
