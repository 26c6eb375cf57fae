"""Images on the device against torchvision, and random streams that depend on nothing they should not."""

import hashlib

import numpy as np
import pytest
import torch
from torchvision import transforms

from normbench.data.randomness import derive_seed, generator
from normbench.engine.batches import DeviceImages, epoch_order, normalize


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (23, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_the_images_at_the_indices(images, channels_last):
    labels = np.arange(23, dtype=np.uint8)
    split = DeviceImages(images, labels, "cpu", channels_last=channels_last)
    indices = torch.tensor([5, 0, 22, 5])
    batch, batch_labels = split.batch(indices)
    assert (batch.dtype, batch_labels.dtype, len(split)) == (torch.uint8, torch.int64, 23)
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1), images[indices])
    np.testing.assert_array_equal(split.images.permute(0, 2, 3, 1), images)
    assert batch_labels.tolist() == [5, 0, 22, 5]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (batch, split.images, normalize(batch)):
        assert tensor.is_contiguous(memory_format=memory_format)


def test_normalize_is_torchvisions_for_every_pixel_value():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tutorial = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    actual = normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.testing.assert_close(actual[0], tutorial(pixels), rtol=0, atol=0)
    assert (actual.min(), actual.max()) == (-1, 1)


def test_normalize_rounds_once_to_the_precision_asked_for():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(normalize(pixels, torch.bfloat16), normalize(pixels).to(torch.bfloat16))
    assert pixels.dtype == torch.uint8


def test_order_is_a_permutation_that_seed_and_epoch_decide():
    order = epoch_order(50_000, seed=3, epoch=2)
    assert torch.equal(order.sort().values, torch.arange(50_000))
    torch.manual_seed(99)
    torch.rand(17)
    assert torch.equal(order, epoch_order(50_000, seed=3, epoch=2)), "the global generator has no part in it"
    for other in (epoch_order(50_000, seed=4, epoch=2), epoch_order(50_000, seed=3, epoch=3)):
        assert (order == other).float().mean() < 0.001


def test_seeds_are_the_head_of_a_sha256():
    digest = hashlib.sha256(b"7/order/12").hexdigest()
    assert derive_seed(7, "order", 12) == int(digest[:16], 16) // 2
    assert 0 <= derive_seed(7, "order", 12) < 2**63
    assert generator(7, "order", 12).initial_seed() == derive_seed(7, "order", 12)


def test_streams_differ_by_seed_purpose_and_epoch():
    keys = [
        (seed, purpose, epoch) for seed in range(5) for purpose in ("order", "initialization") for epoch in range(5)
    ]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
