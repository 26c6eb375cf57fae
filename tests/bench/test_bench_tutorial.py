"""The tutorial's loop is the tutorial's: same network, same numbers as a step written by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from normbench import NormResNet, make_norm
from normbench.bench.tutorial_loop import PilImages, TutorialLoop, with_plain_layers

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
LABELS = np.arange(8)

PLAIN = {
    "bn": nn.BatchNorm2d,
    "ln": lambda channels: nn.GroupNorm(1, channels),
    "in": nn.InstanceNorm2d,
    "gn": lambda channels: nn.GroupNorm(4, channels),
}


def handwritten(norm: str) -> nn.Module:
    """The tutorial's network from torch.nn alone."""
    layers, in_channels = [], 3
    for out_channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        layers += [conv, PLAIN[norm](out_channels), nn.ReLU()]
        in_channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


@pytest.mark.parametrize("norm", PLAIN)
def test_it_trains_as_a_step_written_by_hand(norm: str) -> None:
    torch.manual_seed(0)
    network = with_plain_layers(NormResNet(norm=make_norm(norm)))
    reference = handwritten(norm)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))

    loop = TutorialLoop(network, PilImages(IMAGES, LABELS), 4, "cpu", seed=5)
    loop.run(2)

    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255 * 2 - 1
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    losses = []
    for batch in _batches():
        loss = functional.cross_entropy(reference(images[batch]), torch.from_numpy(LABELS)[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loop.losses == pytest.approx(losses, rel=1e-4)


def _batches() -> list[torch.Tensor]:
    """The indices that a loader with this seed hands out."""
    loader = DataLoader(range(8), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))
    return list(loader)


def test_no_layer_is_fused_or_channels_last() -> None:
    network = with_plain_layers(NormResNet(norm=make_norm("gn", groups=8)))
    kinds = {type(module).__module__.partition(".")[0] for module in network.modules() if module is not network}
    assert kinds == {"torch"}
    assert [m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)] == [8] * 4
    assert all(p.is_contiguous() for p in network.parameters())


def test_a_norm_that_torch_lacks_stays_as_it_is() -> None:
    factory = make_norm("frn")
    torch.manual_seed(0)
    fused = NormResNet(norm=factory)
    x = torch.rand(2, 3, 32, 32)
    expected = fused(x)
    assert torch.equal(with_plain_layers(fused)(x), expected)
    assert not any(type(module).__name__ == "FusedNormAct" for module in fused.modules())


def test_blocks_are_whole_batches_and_an_epoch_is_every_image() -> None:
    loop = TutorialLoop(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), PilImages(IMAGES, LABELS), 3, "cpu")
    seen: list[int] = []
    loop.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    loop.run(5)
    assert seen == [3] * 5
    seen.clear()
    loop.run_epoch()
    assert seen == [3, 3, 2]
    assert len(loop.losses) == 8
