"""A batch in parts: the same step where no statistics run over images, and with BN's statistics synchronized."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_net import TinyNet
from torch import nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages
from normbench.engine.step.synchronized import Part, SynchronizedStatistics
from normbench.engine.trainer import Trainer
from normbench.layers.norm_act import FusedNormAct
from normbench.norms.batch_norm import BatchNorm


class Twice(nn.Module):
    """Two convolutions with norms, so that the second's statistics follow from the first's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3), FusedNormAct(BatchNorm(4), nn.ReLU())
        self.conv2, self.norm2 = nn.Conv2d(4, 5, 3), FusedNormAct(BatchNorm(5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm2(self.conv2(self.norm1(self.conv1(x)))).mean((2, 3)))


def test_synchronized_parts_have_the_gradient_and_the_averages_of_the_whole_batch() -> None:
    """Against torch's own BN on the whole batch, in float64, in parts of unequal size."""
    torch.manual_seed(0)
    whole, in_parts = Twice().double(), Twice().double()
    in_parts.load_state_dict(whole.state_dict())
    x, labels = torch.randn(7, 3, 9, 9, dtype=torch.float64), torch.randint(3, (7,))
    functional.cross_entropy(whole(x), labels).backward()

    def part(images: torch.Tensor, target: torch.Tensor) -> Part:
        share = len(target) / len(labels)
        return Part(lambda: share * functional.cross_entropy(in_parts(images), target), share)

    parts = [part(*pair) for pair in zip(x.split(3), labels.split(3), strict=True)]
    synchronized = SynchronizedStatistics(in_parts)
    with synchronized.over(parts):
        for each in parts:
            synchronized.total(each.run(), each.share).backward()
    for (name, ours), theirs in zip(in_parts.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
    for ours, theirs in zip(in_parts.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert all(layer.training and not layer._forward_hooks for layer in in_parts.modules())


def losses_of(trainer: Trainer) -> np.ndarray:
    list(trainer.run())
    return np.array(trainer.losses)[:, 0]


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(2, 8)], ids=["none", "gn"])
def test_parts_train_like_the_whole_where_no_statistics_run_over_images(
    make_trainer: Callable[..., Trainer], norm: nn.Module
) -> None:
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    whole, in_parts = make_trainer(TinyNet(norm), **sgd), make_trainer(TinyNet(norm), micro_batch=5, **sgd)
    in_parts.model.load_state_dict(whole.model.state_dict())
    norm_state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    expected = losses_of(whole)
    norm.load_state_dict(norm_state)  # both nets have the one layer
    found = losses_of(in_parts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert in_parts.rows[-1].train_accuracy == whole.rows[-1].train_accuracy


def test_bn_sees_the_part_unless_its_statistics_are_synchronized(make_trainer: Callable[..., Trainer]) -> None:
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    whole = losses_of(make_trainer(**sgd))
    in_parts = losses_of(make_trainer(micro_batch=5, **sgd))
    trainer = make_trainer(micro_batch=5, sync_statistics=True, **sgd)
    np.testing.assert_allclose(losses_of(trainer), whole, rtol=1e-4)
    assert abs(in_parts - whole).max() > 0.01
    assert trainer.model.norm.num_batches_tracked == 6


def test_the_first_loss_of_parts_is_the_mean_over_their_images(
    make_trainer: Callable[..., Trainer], train_images: DeviceImages
) -> None:
    trainer = make_trainer(micro_batch=6)
    model = TinyNet().train()
    order, _ = trainer._training.draw_epoch(0)
    images, labels = train_images.batch(order[:16])
    x = (images.double() / 255 - 0.5) / 0.5
    losses = [
        functional.cross_entropy(model(part.float()), target, reduction="sum").item()
        for part, target in zip(x.split(6), labels.split(6), strict=True)
    ]
    assert losses_of(trainer)[0] == pytest.approx(sum(losses) / 16, rel=1e-5)


def test_sizes_that_the_network_sees(make_trainer: Callable[..., Trainer]) -> None:
    assert make_trainer(micro_batch=6).step.forward_sizes() == [6, 4, 2]  # batches of 16 and, last, of 8
    assert make_trainer().step.forward_sizes() == [16, 8]
