"""What a convolution's kernel leaves for the norm after it: the statistics of its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class TileStatistics:
    """Mean and biased variance of each channel of a convolution's output over each tile of its positions, float32.

    A norm over the batch finds them as the attribute `tile_statistics` of its input, and need not read that for them.
    """

    mean: Tensor
    """``(tiles, C_out)``."""
    var: Tensor
    rows: int
    """Positions of a tile; the last may have fewer."""
    version: int = 0
    """The output's version: a later one was changed in place."""


def statistics_of(x: Tensor) -> TileStatistics | None:
    """Return the statistics with which a convolution left `x`, unless it was changed since."""
    statistics: TileStatistics | None = getattr(x, "tile_statistics", None)
    return statistics if statistics is not None and statistics.version == x._version else None
