"""Which parameters decay, which learn faster, and what layers may ask of the loop."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from tiny_net import TinyNet
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.optimizer import build_optimizer
from normbench.layers.hooks import TrainingHooks
from normbench.models import build_model
from normbench.models.normresnet import NormResNet
from normbench.norms import make_norm

RATE = torch.tensor(0.01)


def parameters_by_name(net: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    of_parameter = {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}
    assert len(of_parameter) == len(list(net.parameters()))
    return {name: of_parameter[id(p)] for name, p in net.named_parameters()}


def test_matrices_and_filters_decay_and_vectors_never_do() -> None:
    net = NormResNet(norm=make_norm("gn"))
    train = TrainConfig(optimizer="sgd", weight_decay=0.5)
    decays = parameters_by_name(net, build_optimizer(net, train, capturable=False), "weight_decay")
    for name, parameter in net.named_parameters():
        assert decays[name] == (0.5 if parameter.ndim >= 2 else 0.0), name
    assert sum(decay > 0 for decay in decays.values()) == 5  # four convolutions, one linear layer


@pytest.mark.parametrize("model", ["speednet", "norm_resnet"])
def test_scales_and_shifts_of_norms_learn_at_rates_of_their_own(model: str) -> None:
    net = build_model(model, norm=make_norm("bn"))
    train = TrainConfig(optimizer="sgd", scale_rate=0, shift_rate=64)
    factors = parameters_by_name(net, build_optimizer(net, train, capturable=False), "learning_rate_factor")
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, factor in factors.items():
        layer, _, kind = name.rpartition(".")
        assert factor == ({"weight": 0, "bias": 64}[kind] if layer in norms else 1), name
    assert sorted(factors.values())[:: len(factors) - 1] == [0, 64]


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)),
        ("adam", lambda groups: torch.optim.Adam(groups, lr=0.01)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.01)),
    ],
)
def test_steps_are_those_of_pytorchs_optimizer(optimizer, torchs) -> None:
    ours, reference = TinyNet(nn.Identity()), TinyNet(nn.Identity())  # after a BN, biases follow rounding noise
    train = TrainConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.3)
    built = build_optimizer(ours, train, capturable=False)
    wide = [p for p in reference.parameters() if p.ndim >= 2]
    narrow = [p for p in reference.parameters() if p.ndim < 2]
    expected = torchs([{"params": wide, "weight_decay": 0.3}, {"params": narrow, "weight_decay": 0.0}])
    for step in range(5):
        x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        for net, one in ((ours, built), (reference, expected)):
            one.zero_grad()
            net(x).square().mean().backward()
            one.step()
    for (name, mine), theirs in zip(ours.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("optimizer", "momentum", "torchs"),
    [
        ("sgd", 0.9, lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True, fused=True)),
        ("sgd", 0.0, lambda groups: torch.optim.SGD(groups, lr=RATE, fused=True)),
        ("adam", 0.9, lambda groups: torch.optim.Adam(groups, lr=RATE, fused=True)),
        ("adamw", 0.9, lambda groups: torch.optim.AdamW(groups, lr=RATE, fused=True)),
    ],
)
def test_steps_are_bit_for_bit_those_of_pytorchs_fused_optimizer_and_take_over_its_state(
    optimizer, momentum, torchs
) -> None:
    train = TrainConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.3, momentum=momentum)
    nets = [nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    groups = [[p for p in nets[1].parameters() if (p.ndim >= 2) == is_wide] for is_wide in (True, False)]
    theirs = torchs([{"params": group, "weight_decay": d} for group, d in zip(groups, (0.3, 0.0), strict=True)])
    ours = build_optimizer(nets[0], train, capturable=False)
    resumed = None
    for step in range(6):
        if step == 3:  # the third net goes on from where torch's optimizer is
            nets[2].load_state_dict(nets[1].state_dict())
            resumed = build_optimizer(nets[2], train, capturable=False)
            resumed.load_state_dict(theirs.state_dict())
            assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        for net, one in zip(nets, (ours, theirs, resumed), strict=True):
            if one is not None:
                one.zero_grad()
                net(x).square().mean().backward()
                one.step()
    for mine, reference, third in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(mine, reference)
        assert torch.equal(third, reference)
    with pytest.raises(ValueError, match="parameters"):
        ours.load_state_dict(torch.optim.SGD(nets[1].parameters(), lr=1.0).state_dict())


_WITHOUT_COMPILER = """
import sys
from normbench.config.schema import TrainConfig
from normbench.worker.classifiers import CLASSIFICATION
train = {"epochs": 1, "batch_size": 64}
images = {"name": "synthetic", "options": {"num_train": 64, "num_test": 10}}
for norm in ("bn", "gn", "ln", "brn"):
    draft = {"task": "classification", "norm": {"name": norm}, "model": {"name": "norm_resnet_small"}, "seed": 0,
             "dataset": images, "train": train, "device": "cpu"}
    config = CLASSIFICATION.resolve({**draft, "train": TrainConfig(**train).model_dump()})
    CLASSIFICATION.check_model(config)
trainer = CLASSIFICATION.load_run(config, None, None).trainer
list(trainer.run())
trainer.load_state_dict(trainer.state_dict())
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""


def test_a_small_comparison_on_a_cpu_needs_no_compiler_of_torchs() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_COMPILER], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_gates_of_bin_learn_ten_times_as_fast(make_trainer) -> None:
    trainer = make_trainer(TinyNet(make_norm("bin")(8)), lr=0.01, epochs=1)
    next(iter(trainer.run()))
    rates = {
        name: float(rate) for name, rate in parameters_by_name(trainer.model, trainer.step.optimizer, "lr").items()
    }
    gates = [name for name, parameter in trainer.model.named_parameters() if "gate" in name]
    assert gates
    for name, rate in rates.items():
        assert rate == pytest.approx(0.1 if name in gates else 0.01), name


class Recorder(TrainingHooks):
    """Notes what the loop tells it, and keeps its parameter at most 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5))
        self.progress: list[float] = []
        self.shifts: list[float] = []

    def before_step(self, progress: torch.Tensor) -> None:
        self.progress.append(progress.item())
        self.shifts.append(self.shift.item())

    def after_step(self) -> None:
        self.shift.clamp_(max=0.5)

    def learning_rate_factors(self) -> Mapping[str, float]:
        return {"shift": 100.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.shift.square()


def test_layers_hear_the_progress_before_and_may_repair_themselves_after_every_step(make_trainer) -> None:
    recorder = Recorder()
    list(make_trainer(TinyNet(recorder), epochs=2, batch_size=16).run())  # 2 epochs of 3 steps
    assert recorder.progress == pytest.approx([step / 6 for step in range(6)])
    assert max(recorder.shifts) <= 0.5  # without `after_step` it leaves in both directions
    assert len(set(recorder.shifts)) > 1


def test_a_resumed_training_tells_layers_the_progress_of_the_whole(make_trainer) -> None:
    first = make_trainer(TinyNet(Recorder()))
    events = first.run()
    for _ in range(4):
        next(events)
    events.close()
    recorder = Recorder()
    second = make_trainer(TinyNet(recorder))
    second.load_state_dict(first.state_dict())
    list(second.run())
    assert recorder.progress == pytest.approx([4 / 6, 5 / 6])
