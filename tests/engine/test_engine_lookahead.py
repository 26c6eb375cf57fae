"""Slow weights against their formula in float64, step by step, on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_net import TinyNet

from normbench.config.schema import LookaheadConfig, TrainConfig
from normbench.engine.lookahead import Lookahead
from normbench.engine.optimizer import build_optimizer
from normbench.engine.schedule import lookahead_decays
from normbench.norms import make_norm


def test_the_last_step_is_an_update_and_every_so_many_before_it() -> None:
    found = lookahead_decays(LookaheadConfig(every=3, decay=0.8, power=2), 8)
    expected = [-1, 0.8 * (2 / 8) ** 2, -1, -1, 0.8 * (5 / 8) ** 2, -1, -1, 0.8]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_zhangs_lookahead_keeps_the_same_share_after_every_step() -> None:
    found = lookahead_decays(LookaheadConfig(every=1, decay=0.5, power=0), 4)
    assert found.tolist() == [0.5] * 4


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_go_back_to_slow_ones_by_the_formula(optimizer: str) -> None:
    train = TrainConfig.model_validate({"optimizer": optimizer, "lr": 0.05, "lookahead": {"every": 2, "decay": 0.6}})
    assert train.lookahead is not None
    ours, plain = TinyNet(make_norm("gn")(8)), TinyNet(make_norm("gn")(8))
    decays = lookahead_decays(train.lookahead, 6)
    num_steps = torch.tensor(0)
    lookahead = Lookahead(build_optimizer(ours, train, capturable=False), decays, num_steps)
    reference = build_optimizer(plain, train, capturable=False)
    slow = [p.detach().double().clone() for p in plain.parameters()]
    for step in range(6):
        gradients = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) for p in ours.parameters()]
        for net, one in ((ours, lookahead), (plain, reference)):
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            one.step()
        num_steps += 1
        if step % 2:
            decay = 0.6 * ((step + 1) / 6) ** 3
            with torch.no_grad():
                for parameter, kept in zip(plain.parameters(), slow, strict=True):
                    kept.mul_(decay).add_((1 - decay) * parameter.double())
                    parameter.copy_(kept)
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_training_that_was_interrupted_has_the_same_slow_weights(make_trainer) -> None:
    def trainer():
        return make_trainer(TinyNet(make_norm("gn")(8)), optimizer="sgd", lr=0.05, lookahead={"every": 2})

    whole, first, second = trainer(), trainer(), trainer()
    list(whole.run())
    events = first.run()
    next(events)
    events.close()
    second.load_state_dict(first.state_dict())
    list(second.run())
    assert second.losses == whole.losses
    for mine, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
