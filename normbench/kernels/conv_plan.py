"""Which tiles the convolutions between layers take: a fixed rule by shape, so that the bits depend on no search."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.kernels.tiling import ceil_div

PROGRAMS = 128
"""Programs that about fill the device, one for each multiprocessor."""
MAX_SHARES = 16
"""Shares of a weight's gradient, at most: each is written and read once more."""
SHARE_STEPS = 4
"""The fewest steps of a share: fewer would hardly begin before they end."""


@dataclass(frozen=True)
class ConvShape:
    """A convolution of ``(runs * images, channels, height, width)``, padded by half its kernel's size."""

    images: int
    height: int
    width: int
    channels: int
    channels_out: int
    kernel: int
    stride: int
    runs: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    @property
    def rows(self) -> int:
        """Output positions of a run."""
        height, width = self.out_size
        return self.images * height * width

    @property
    def constants(self) -> dict[str, int]:
        """What all kernels know of the shape when they are compiled."""
        return {
            "HEIGHT": self.height,
            "WIDTH": self.width,
            "CHANNELS": self.channels,
            "CHANNELS_OUT": self.channels_out,
            "KERNEL": self.kernel,
            "STRIDE": self.stride,
        }


@dataclass(frozen=True)
class Tile:
    """A program's part of the product ``(M, K) x (K, N)``: M x N results, K products at a time."""

    m: int
    n: int
    k: int
    num_warps: int
    stages: int
    """Steps whose operands are on their way at once."""


def forward_tile(shape: ConvShape) -> Tile:
    """Choose for the output: M positions, N output channels, K input channels."""
    return _largest(shape.rows, shape.channels_out, shape.channels)


def input_tile(shape: ConvShape) -> Tile:
    """Choose for the input's gradient: M positions of a parity, N input channels, K output channels."""
    return _largest(shape.rows * shape.stride, shape.channels, shape.channels_out)


def weight_tile(shape: ConvShape) -> tuple[Tile, int]:
    """Choose for the weight's gradient: M output channels, N input channels, K positions; and the number of shares."""
    m, n = _divisor(shape.channels_out, 64), _divisor(shape.channels, 64)
    tile = Tile(m, n, 64, num_warps=4, stages=4)
    programs = shape.channels_out // m * shape.kernel**2 * (shape.channels // n)
    steps = ceil_div(shape.rows, tile.k)
    return tile, max(1, min(ceil_div(PROGRAMS, programs), MAX_SHARES, steps // SHARE_STEPS))


def _largest(rows: int, columns: int, products: int) -> Tile:
    """Return the largest tile of which there are enough to fill the device."""
    k = _divisor(products, 64)
    for m, n, num_warps, stages in ((128, 128, 8, 3), (128, 64, 4, 3)):
        if columns % n == 0 and ceil_div(rows, m) * (columns // n) >= PROGRAMS:
            return Tile(m, n, k, num_warps, stages)
    return Tile(64, _divisor(columns, 64), k, num_warps=4, stages=4)


def _divisor(channels: int, most: int) -> int:
    """Return the largest power of two that divides `channels`, at most `most`."""
    return min(channels & -channels, most)
