"""What layers ask of the training loop, and that a loop which knows no norm can serve them."""

from __future__ import annotations

import pytest
import torch
from norm_cases import images
from torch import nn

from normbench.layers.hooks import TrainingHooks, learning_rate_factors, modules_with_hooks
from normbench.norms import NORMS, make_norm

C = 4


def test_batch_renorm_limits_follow_training() -> None:
    """Defaults: BN for 1/16 of training, then r to 3 at 1/2 and d to 5 at 5/16."""
    layer = make_norm("brn")(C)
    expected = {
        0.0: (1, 0),
        1 / 16: (1, 0),
        0.1875: (1 + 2 * 2 / 7, 2.5),
        0.3125: (1 + 2 * 4 / 7, 5),
        0.5: (3, 5),
        1.0: (3, 5),
    }
    for progress, (r_limit, d_limit) in expected.items():
        layer.before_step(torch.tensor(progress))
        assert layer.r_limit.item() == pytest.approx(r_limit, rel=1e-6)
        assert layer.d_limit.item() == pytest.approx(d_limit, rel=1e-6)


def test_batch_renorm_corrects_towards_the_running_statistics_as_training_goes_on() -> None:
    layer = make_norm("brn", momentum=0.0, r_max=2.0)(C)
    layer.running_mean.fill_(0.3)
    layer.running_std.fill_(1.5)
    x = images(6, C, 5, 5, dtype=torch.float32)
    in_evaluation = layer.eval()(x)
    layer.train()
    distances = []
    for progress in (0.0, 0.2, 0.4, 1.0):
        layer.before_step(torch.tensor(progress))
        distances.append((layer(x) - in_evaluation).abs().mean().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.5 * distances[0]


def test_gates_stay_between_zero_and_one_and_learn_faster() -> None:
    layer = make_norm("bin")(C)
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([-0.5, 0.0, 0.7, 1.3]))
    layer.after_step()
    assert layer.gate.tolist() == pytest.approx([0.0, 0.0, 0.7, 1.0])
    net = nn.Sequential(nn.Conv2d(3, C, 1), layer, nn.Sequential(make_norm("bn")(C), make_norm("bin")(C)))
    assert learning_rate_factors(net) == {"1.gate": 10.0, "2.1.gate": 10.0}
    assert learning_rate_factors(layer) == {"gate": 10.0}


def test_an_unaware_layer_asks_for_nothing() -> None:
    class Plain(TrainingHooks):
        pass

    plain = Plain()
    plain.before_step(torch.zeros(()))
    plain.after_step()
    assert plain.learning_rate_factors() == {}


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_trains_under_the_protocol(name: str) -> None:
    """A loop that calls the protocol for whatever asks for it, on a task of the norm's own: match a target."""
    torch.manual_seed(0)
    factory = make_norm(name)
    net = nn.Sequential(factory.conv2d(3, 8, 3, padding=1, bias=True), factory.norm_act(8, size=6), nn.Conv2d(8, 1, 1))
    factors = learning_rate_factors(net)
    groups = [{"params": [p], "lr": 0.02 * factors.get(key, 1.0)} for key, p in net.named_parameters()]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    x = images(8, 3, 6, 6, dtype=torch.float32)
    target = x.sum(1, keepdim=True).tanh()
    losses = []
    for step in range(40):
        for module in modules_with_hooks(net):
            module.before_step(torch.tensor(step / 40))
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for module in modules_with_hooks(net):
            module.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
