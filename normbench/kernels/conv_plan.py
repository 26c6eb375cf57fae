"""Which tiles the convolutions between layers take: a fixed rule by shape, so that the bits depend on no search."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.kernels.tiling import ceil_div, power_of_two

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
    for tile in (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 4), Tile(64, 64, 128, 4, 3)):
        fits = shape.channels_out % tile.n == 0 and shape.channels % tile.k == 0
        if fits and ceil_div(shape.rows, tile.m) * (shape.channels_out // tile.n) >= PROGRAMS:
            return tile
    return _small_tile(shape.channels_out, shape.channels)


def input_tile(shape: ConvShape) -> Tile:
    """Choose for the input's gradient: M positions of a parity, N input channels, K output channels."""
    if shape.channels_out % 64 or shape.channels % 64:
        return _small_tile(shape.channels, shape.channels_out)
    programs = ceil_div(shape.rows, 64) * (shape.channels // 128) * shape.stride**2
    is_wide = shape.channels % 128 == 0 and programs >= 2 * PROGRAMS
    return Tile(64, 128, 64, 4, 3) if is_wide else Tile(128, 64, 64, 4, 3)


def weight_tile(shape: ConvShape) -> tuple[Tile, int]:
    """Choose for the weight's gradient: M output channels, N input channels, K positions; and the number of shares."""
    m, n = _divisor(shape.channels_out, 128), _divisor(shape.channels, 64)
    if shape.channels % 256 == 0:
        m, n = _divisor(shape.channels_out, 64), 128
    tile = Tile(m, n, 64, num_warps=4, stages=3)
    programs = shape.channels_out // m * shape.kernel**2 * (shape.channels // n)
    steps = ceil_div(shape.rows, tile.k)
    return tile, max(1, min(power_of_two(ceil_div(PROGRAMS, programs)), MAX_SHARES, steps // SHARE_STEPS))


def _small_tile(columns: int, products: int) -> Tile:
    """Return a tile for any number of channels."""
    return Tile(64, _divisor(columns, 64), _divisor(products, 64), num_warps=4, stages=4)


def whole_lines(shape: ConvShape, tile: Tile, num_shares: int) -> bool:
    """Return whether each step of the weight's gradient takes whole lines, of one image or of whole images."""
    height, width = shape.out_size
    lines = max(tile.k // width, 1)
    fits = tile.k % width == 0 and (height % lines == 0 or lines % height == 0)
    return fits and shape.height == height * shape.stride and shape.rows % (tile.k * num_shares) == 0


def _divisor(channels: int, most: int) -> int:
    """Return the largest power of two that divides `channels`, at most `most`."""
    return min(channels & -channels, most)
