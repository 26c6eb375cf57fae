"""Which tiles the convolutions between layers take: a fixed rule by shape, so that the bits depend on no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normbench.kernels.tiling import ceil_div, power_of_two

FORWARD_PROGRAMS, BACKWARD_PROGRAMS = 128, 256
"""Programs that fill the device, about one or two for each multiprocessor."""
SHARES_ELEMENTS = 1_200_000
"""Elements of all shares of a weight's gradient together: each is written, and read by whoever sums them."""
MAX_SHARES = 16
SHARE_STEPS = 4
"""The fewest steps of a share: fewer would hardly begin before they end."""
MOST_WORK = {"forward": 20e9, "input": 20e9, "weight": 10e9}
"""Floating-point operations of a pass from which on cuDNN is faster, which loads its operands by other means."""


@dataclass(frozen=True)
class ConvShape:
    """A convolution of ``(images, channels, height, width)``, padded by half its kernel's size."""

    images: int
    height: int
    width: int
    channels: int
    channels_out: int
    kernel: int
    stride: int

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    @property
    def rows(self) -> int:
        """Output positions."""
        height, width = self.out_size
        return self.images * height * width

    @property
    def work(self) -> float:
        """Floating-point operations of a pass."""
        return 2.0 * self.rows * self.channels_out * self.channels * self.kernel**2

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


def is_faster(shape: ConvShape, which: Literal["forward", "input", "weight"], *, fused: bool = False) -> bool:
    """Return whether our kernel takes less time than cuDNN for the output, or the gradient of input or weight.

    `fused` where it also runs a ReLU, for which what cuDNN writes would be read and written once more.
    """
    return fused or shape.work < MOST_WORK[which]


def forward_tile(shape: ConvShape) -> Tile:
    """Choose for the output: M positions, N output channels, K input channels."""
    tiles = (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 4), Tile(128, 64, 64, 4, 4), Tile(64, 64, 128, 4, 3))
    return _largest(tiles, shape, shape.channels_out, shape.channels, FORWARD_PROGRAMS)


def input_tile(shape: ConvShape) -> Tile:
    """Choose for the input's gradient: M positions of a parity, N input channels, K output channels."""
    tiles = (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3), Tile(128, 64, 64, 4, 3), Tile(64, 64, 128, 4, 3))
    programs = BACKWARD_PROGRAMS // shape.stride**2
    return _largest(tiles, shape, shape.channels, shape.channels_out, programs)


def _largest(tiles: Sequence[Tile], shape: ConvShape, columns: int, products: int, programs: int) -> Tile:
    """Return the first of `tiles` that gives enough programs, or the last."""
    fitting = [tile for tile in tiles if columns % tile.n == 0 and products % tile.k == 0]
    many = [tile for tile in fitting if ceil_div(shape.rows, tile.m) * (columns // tile.n) >= programs]
    smallest = fitting[-1] if fitting else Tile(64, _divisor(columns, 64), _divisor(products, 64), 4, 4)
    return (many or [smallest])[0]


def weight_tile(shape: ConvShape) -> tuple[Tile, int]:
    """Choose for the weight's gradient: M output channels, N input channels, K positions; and the number of shares."""
    m, n = _divisor(shape.channels_out, 64), _divisor(shape.channels, 128)
    tile = Tile(m, n, 64, num_warps=4, stages=3 if n == 128 else 4)
    programs = shape.channels_out // m * shape.kernel**2 * (shape.channels // n)
    weights = shape.channels_out * shape.kernel**2 * shape.channels
    most = min(SHARES_ELEMENTS // weights, MAX_SHARES, ceil_div(shape.rows, tile.k) // SHARE_STEPS)
    return tile, max(1, min(power_of_two(ceil_div(BACKWARD_PROGRAMS, programs)), most))


def whole_lines(shape: ConvShape, tile: Tile, num_shares: int) -> bool:
    """Return whether each step of the weight's gradient takes whole lines, of one image or of whole images."""
    height, width = shape.out_size
    lines = max(tile.k // width, 1)
    fits = tile.k % width == 0 and (height % lines == 0 or lines % height == 0)
    return fits and shape.height == height * shape.stride and shape.rows % (tile.k * num_shares) == 0


def _divisor(channels: int, most: int) -> int:
    """Return the largest power of two that divides `channels`, at most `most`."""
    return min(channels & -channels, most)
