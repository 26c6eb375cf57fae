"""Tilings: fixed rules that cut a shape into programs, so that nothing is tuned while a CUDA graph is captured."""

from __future__ import annotations

from dataclasses import dataclass

FORWARD_TILE, BACKWARD_TILE = 32768, 16384
"""Elements of the largest tile a program holds in registers, all rows at once; backward it holds x and dy."""
LOOP_TILE = 4096
"""Elements of a tile that a program loops over, with accumulators of the same size."""
CACHED_TILE = 16384
"""Elements of x, and of dy, that a program may read twice in 16 bits with the second time from the first-level cache,
beside two other programs, whose registers then hold a tile of LOOP_TILE only; where there are CACHED_PROGRAMS."""
CACHED_PROGRAMS = 1024
CACHED_WARPS = 4
WHOLE_TILE = 65536
"""Elements of a sample that a program loops over rather than share them, however few programs there are."""
POSITION_TILE = 4096
"""Elements of a tile for statistics over channels."""
THREAD_ELEMENTS = 32
"""Elements of a tile for each thread, up to MAX_WARPS."""
MANY_ELEMENTS = 64
"""Elements for each thread of a tile that holds all rows: each reduction over it ends in exchanges between threads, of
which few are better than many, until their registers run out."""
MANY_BACKWARD, MANY_CHANNELS = 8192, 256
"""In the backward pass, a thread takes MANY_ELEMENTS only of tiles with at most so many elements, or with at least so
many channels, whose exchanges are the longest."""
MAX_WARPS = 16
STAGES = 3
"""Tiles of 16-bit elements on their way at once in a loop, the one in use included; they wait in shared memory."""
PROGRAMS = 256
"""Programs that fill the device, almost two for each of 132 multiprocessors; a power of two, merged in full tiles."""
POSITION_PROGRAMS = 264
"""The most programs of the backward pass for statistics over channels; each leaves a share to be summed."""
MIN_CHANNELS = 32
"""Channels side by side in memory that fill two 32-byte sectors, in 16 bits; half of them where samples share their
statistics, because there are as few programs then as blocks of channels."""
SPLIT_CHANNELS = 32
"""Channels of a tile where programs share the rows of a sample."""
LINE_CHANNELS = 64
"""Channels that fill one 128-byte line."""
MERGE_TILE = 4096
"""Elements that are merged at a time, of partial results of one kernel by the next."""
SUM_TILE = 4096
"""Elements that the kernel for sums merges at a time, with SUM_COLUMNS columns for each program."""
SUM_COLUMNS = 16
MOMENTS_TILE = 4096
"""Elements of a tile for norms by several statistics, up to five sums of each, with MOMENTS_ELEMENTS for a thread."""
MOMENTS_ELEMENTS = 16
PIXEL_TILE = 2048
"""Elements of a tile for a layer normalization with parameters for each element, which its program keeps."""
PIXEL_SAMPLES = 8
"""Samples for which a program takes such a tile where there are programs enough; each leaves a share to be summed."""
MERGED_BY_EACH = 16384
"""Partial results that every program merges by itself; more are merged by a launch of its own beforehand."""
IMAGE_ROWS = 128
"""Pixels of a tile of the convolution of images, with IMAGE_WARPS warps and up to IMAGE_CHANNELS output channels."""
IMAGE_CHANNELS = 64
IMAGE_WARPS = 4
IMAGE_PROGRAMS = 512
"""Programs that take turns with the tiles of that convolution: as many as run at once, four on a multiprocessor."""
IMAGE_SHARE_TILES = 2
"""The fewest tiles of one program's share in the gradient of that convolution's weight."""
IMAGE_STAGES = 1
"""Tiles on their way at once in a program's loop; the programs beside it hide the waiting."""
HEAD_CLASSES = 16
"""Outputs of a program for the weight's gradient of the linear layer after the mean; tensor cores take no fewer."""
HEAD_CHANNELS = 32
"""Channels of a program for that gradient, which takes HEAD_SAMPLES samples at a time, with HEAD_WARPS warps."""
HEAD_SAMPLES = 128
HEAD_WARPS = 4
HEAD_STAGES = 2
"""Tiles on their way at once in the loop of a program for that gradient."""


@dataclass(frozen=True)
class GroupTiling:
    """Tiles and programs for statistics over rows."""

    group_size: int
    group_pad: int
    blocks: int
    """Programs side by side over the channels."""
    block_c: int
    block_r: int
    split: bool
    """Whether programs share the rows of a sample, in `chunks` of `chunk_tiles` tiles, which takes two launches."""
    one_tile: bool
    """Whether one tile holds all rows."""
    chunks: int
    chunk_tiles: int
    block_p: int
    """Chunks merged at a time."""
    num_warps: int
    stages: int
    """Tiles on their way at once in a program's loop."""


@dataclass(frozen=True)
class PositionTiling:
    """Tiles and programs for statistics over channels."""

    block_c: int
    block_r: int
    tiles: int
    programs: int
    """Programs of the backward pass, each with its share of the parameters' gradients."""
    num_warps: int


@dataclass(frozen=True)
class MomentsTiling:
    """Tiles and programs for norms by several statistics; a part is what one program takes of a block of channels."""

    group_size: int
    group_pad: int
    blocks: int
    """Programs side by side over the channels."""
    block_c: int
    block_s: int
    """Samples of a tile; one where a program does not hold all rows of a sample."""
    block_r: int
    sub: int
    """Consecutive samples that share their batch statistics."""
    subs: int
    parts: int
    """Parts of each `sub` samples."""
    samples_per: int
    """Samples of a part; one where `row_chunks` parts of `chunk_rows` rows share a sample."""
    row_chunks: int
    chunk_rows: int
    block_k: int
    """Sub-batches merged at a time."""
    block_p: int
    """Parts of a sub-batch merged at a time; all of them where there are several sub-batches."""
    block_q: int
    """Parts of a sample merged at a time."""
    num_warps: int

    @property
    def one_tile(self) -> bool:
        """Whether a tile holds all of a part's rows."""
        return self.chunk_rows <= self.block_r

    @property
    def programs(self) -> int:
        """The programs of a launch."""
        return self.blocks * self.subs * self.parts


@dataclass(frozen=True)
class PixelTiling:
    """Tiles and programs for a layer normalization with parameters for each element."""

    parts: int
    """Programs that share a sample for its statistics, in chunks of `chunk` elements, `chunk_block` at a time."""
    chunk: int
    chunk_block: int
    chunk_warps: int
    tiles: int
    """Tiles of a sample, `blocks` of them side by side over the channels."""
    blocks: int
    block_r: int
    block_c: int
    samples_per: int
    """Samples whose tile a program takes, one after the other."""
    programs: int
    num_warps: int


@dataclass(frozen=True)
class SumTiling:
    """Tiles and programs for sums of the programs' shares."""

    block_c: int
    block_p: int
    programs: int
    num_warps: int


def tile_groups(
    samples: int,
    rows: int,
    channels: int,
    groups: int,
    *,
    across_samples: bool,
    backward: bool,
    element_bytes: int = 2,
    terms: int = 2,
) -> GroupTiling:
    """Choose tiles for `samples` x `rows` positions; `across_samples` where samples share their statistics.

    Backward, a program sums `terms` gradients of parameters per channel.
    """
    group_size = channels // groups
    group_pad = power_of_two(group_size)
    lanes = groups * group_pad
    rows_pad = power_of_two(rows)

    # Wide enough for whole cache lines; the same for every number of samples, which saves compilations.
    min_channels = MIN_CHANNELS // 2 if across_samples else MIN_CHANNELS
    block_c = min(max(group_pad, min_channels), power_of_two(lanes))
    while block_c < min(lanes, LINE_CHANNELS) and rows_pad * block_c * 2 <= LOOP_TILE:
        block_c *= 2
    one_tile = rows_pad * block_c <= (BACKWARD_TILE if backward else FORWARD_TILE)
    shared = across_samples and samples > 1
    crowded = samples * ceil_div(lanes, block_c) >= PROGRAMS
    loopable = rows * block_c <= WHOLE_TILE and not across_samples
    split = shared or not (one_tile or crowded or loopable)
    one_tile = one_tile and not split
    if split:
        block_c = min(max(group_pad, SPLIT_CHANNELS), power_of_two(lanes))
    cached = (
        backward
        and one_tile
        and element_bytes == 2
        and rows_pad * block_c > LOOP_TILE
        and rows_pad * max(block_c, LINE_CHANNELS) <= CACHED_TILE
        and samples * (lanes // LINE_CHANNELS) >= CACHED_PROGRAMS
    )
    if cached:
        block_c, one_tile = max(block_c, LINE_CHANNELS), False
    blocks = ceil_div(lanes, block_c)
    loop_tile = LOOP_TILE // 2 if cached and terms == 3 else LOOP_TILE  # the third sum's registers
    block_r = rows_pad if one_tile else min(max(1, loop_tile // block_c), rows_pad)
    tiles = ceil_div(rows, block_r)
    chunk_tiles = ceil_div(tiles, max(1, PROGRAMS // (samples * blocks))) if split else tiles
    warps = num_warps(block_r * block_c, many=one_tile and _takes_many(block_r, block_c, backward))
    return GroupTiling(
        group_size=group_size,
        group_pad=group_pad,
        blocks=blocks,
        block_c=block_c,
        block_r=block_r,
        split=split,
        one_tile=one_tile,
        chunks=ceil_div(tiles, chunk_tiles),
        chunk_tiles=chunk_tiles,
        block_p=max(1, MERGE_TILE // block_c),
        num_warps=CACHED_WARPS if cached else warps,
        stages=1 if cached else stages(element_bytes),
    )


def _takes_many(block_r: int, block_c: int, backward: bool) -> bool:
    """Return whether a thread takes MANY_ELEMENTS of a tile that holds all rows."""
    return not backward or block_r * block_c <= MANY_BACKWARD or block_c >= MANY_CHANNELS


def tile_positions(positions: int, channels: int) -> PositionTiling:
    """Choose tiles for `positions` of all samples together."""
    block_c = power_of_two(channels)
    block_r = min(max(1, POSITION_TILE // block_c), power_of_two(positions))
    tiles = ceil_div(positions, block_r)
    return PositionTiling(block_c, block_r, tiles, min(tiles, POSITION_PROGRAMS), num_warps(block_r * block_c))


def tile_moments(samples: int, rows: int, channels: int, groups: int, sub_batch: int | None) -> MomentsTiling:
    """Choose tiles for samples whose batch statistics `sub_batch` of them share, or all of them."""
    group_size = channels // groups
    group_pad = power_of_two(group_size)
    lanes = groups * group_pad
    block_c = min(max(group_pad, SPLIT_CHANNELS), power_of_two(lanes))
    blocks = ceil_div(lanes, block_c)
    block_r = min(max(1, MOMENTS_TILE // block_c), power_of_two(rows))
    sub = min(sub_batch or samples, samples)
    subs = ceil_div(samples, sub)
    wanted = max(1, PROGRAMS // (blocks * subs))
    samples_per = ceil_div(sub, wanted)
    tiles = ceil_div(rows, block_r)
    chunk_tiles = ceil_div(tiles, max(1, wanted // sub))
    # A tile of several samples holds all their rows.
    block_s = min(max(1, MOMENTS_TILE // (block_c * block_r)), power_of_two(samples_per)) if tiles == 1 else 1
    samples_per = ceil_div(samples_per, block_s) * block_s
    row_chunks = ceil_div(tiles, chunk_tiles)
    parts = ceil_div(sub, samples_per) * row_chunks
    merged = max(1, MERGE_TILE // block_c)
    block_p = min(merged, power_of_two(parts)) if subs == 1 else power_of_two(parts)
    return MomentsTiling(
        group_size=group_size,
        group_pad=group_pad,
        blocks=blocks,
        block_c=block_c,
        block_s=block_s,
        block_r=block_r,
        sub=sub,
        subs=subs,
        parts=parts,
        samples_per=samples_per,
        row_chunks=row_chunks,
        chunk_rows=chunk_tiles * block_r,
        block_k=min(max(1, merged // block_p), power_of_two(subs)),
        block_p=block_p,
        block_q=min(merged, power_of_two(row_chunks)),
        num_warps=min(max(block_s * block_r * block_c // (32 * MOMENTS_ELEMENTS), 1), MAX_WARPS),
    )


def tile_pixels(samples: int, rows: int, channels: int) -> PixelTiling:
    """Choose tiles for `samples` of `rows` x `channels` elements with parameters of their own."""
    values = rows * channels
    chunk_block = min(LOOP_TILE, power_of_two(values))
    chunk_tiles = ceil_div(ceil_div(values, chunk_block), max(1, PROGRAMS // samples))
    block_c = min(LINE_CHANNELS, power_of_two(channels))
    block_r = min(max(1, PIXEL_TILE // block_c), power_of_two(rows))
    blocks = ceil_div(channels, block_c)
    tiles = blocks * ceil_div(rows, block_r)
    programs = min(max(PROGRAMS, samples * tiles // PIXEL_SAMPLES), 4 * PROGRAMS)
    samples_per = ceil_div(samples, max(1, programs // tiles))
    return PixelTiling(
        parts=ceil_div(values, chunk_tiles * chunk_block),
        chunk=chunk_tiles * chunk_block,
        chunk_block=chunk_block,
        chunk_warps=num_warps(chunk_block),
        tiles=tiles,
        blocks=blocks,
        block_r=block_r,
        block_c=block_c,
        samples_per=samples_per,
        programs=tiles * ceil_div(samples, samples_per),
        num_warps=min(max(block_r * block_c // (32 * MOMENTS_ELEMENTS), 1), MAX_WARPS),
    )


def tile_sums(parts: int, columns: int) -> SumTiling:
    """Choose tiles to sum ``(parts, columns)`` over the parts."""
    block_c = min(SUM_COLUMNS, power_of_two(columns))
    block_p = min(SUM_TILE // block_c, power_of_two(parts))
    return SumTiling(block_c, block_p, ceil_div(columns, block_c), num_warps(block_p * block_c))


def num_warps(elements: int, *, many: bool = False) -> int:
    """Return the warps for a tile."""
    return min(max(elements // (32 * (MANY_ELEMENTS if many else THREAD_ELEMENTS)), 1), MAX_WARPS)


def stages(element_bytes: int) -> int:
    """Return how many tiles of a loop are on their way at once: the same bytes, which small devices must hold too."""
    return max(1, STAGES * 2 // element_bytes)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up."""
    return -(-a // b)
