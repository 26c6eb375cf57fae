"""Crop and flip against torchvision's, image by image."""

import pytest
import torch
from torchvision.transforms import functional

from normbench.engine.augment import apply_crop_flip, draw_augmentation, draw_crop_flip


def reference(image, shift_y, shift_x, flip):
    padded = functional.pad(image, 4, padding_mode="reflect")
    window = functional.crop(padded, 4 + shift_y, 4 + shift_x, *image.shape[-2:])
    return functional.hflip(window) if flip else window


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(32, 32), (6, 9)])
def test_every_shift_and_flip_is_torchvisions(memory_format, dtype, size):
    shifts = [(y, x, flip) for y in range(-4, 5) for x in range(-4, 5) for flip in (False, True)]
    images = torch.randint(256, (len(shifts), 3, *size)).to(dtype).contiguous(memory_format=memory_format)
    shift_y, shift_x, flip = (torch.tensor(column) for column in zip(*shifts, strict=True))
    actual = apply_crop_flip(images, shift_y, shift_x, flip)
    expected = torch.stack([reference(image, *shift) for image, shift in zip(images, shifts, strict=True)])
    assert torch.equal(actual, expected)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=memory_format)


def test_no_shift_and_no_flip_changes_nothing():
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    zero = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(apply_crop_flip(images, zero, zero, zero.bool()), images)


def test_draws_are_uniform_and_decided_by_seed_and_epoch():
    drawn = draw_crop_flip(90_000, seed=1, epoch=0)
    for shift in (drawn.dx, drawn.dy):
        counts = torch.bincount(shift + 4, minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500  # five standard deviations
    assert abs(drawn.flip.float().mean() - 0.5) < 0.01
    assert not torch.equal(drawn.dx, drawn.dy)
    torch.rand(3)
    for tensor, again in zip(drawn, draw_crop_flip(90_000, seed=1, epoch=0), strict=True):
        assert torch.equal(tensor, again)
    for other in (draw_crop_flip(90_000, seed=2, epoch=0), draw_crop_flip(90_000, seed=1, epoch=1)):
        assert not torch.equal(drawn.dx, other.dx)


def test_nothing_depends_on_values_so_that_a_cuda_graph_can_hold_it():
    """Tracing on fake tensors fails on `.item()`, on data-dependent shapes and on Python branches over values."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        images = torch.empty(8, 3, 32, 32, dtype=torch.uint8)
        shift = torch.empty(8, dtype=torch.int64)
        assert apply_crop_flip(images, shift, shift, torch.empty(8, dtype=torch.bool)).shape == images.shape


def test_each_image_is_mirrored_in_every_other_epoch_and_shifted_by_at_most_two_pixels() -> None:
    epochs = [draw_augmentation("shift_alternate", 2000, seed=3, epoch=epoch) for epoch in range(4)]
    flips = [drawn.flip for drawn in epochs]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert torch.equal(flips[1], flips[3])
    assert 900 < flips[0].sum() < 1100
    for drawn in epochs:
        assert set(drawn.dx.tolist()) == set(drawn.dy.tolist()) == {-2, -1, 0, 1, 2}
    assert not torch.equal(epochs[0].dx, epochs[1].dx)
    assert not torch.equal(flips[0], draw_augmentation("shift_alternate", 2000, seed=4, epoch=0).flip)


def test_the_other_kinds_draw_what_they_drew_before() -> None:
    assert draw_augmentation("none", 10, seed=0, epoch=1) is None
    for ours, plain in zip(draw_augmentation("crop_flip", 10, 0, 1), draw_crop_flip(10, 0, 1), strict=True):
        assert torch.equal(ours, plain)
