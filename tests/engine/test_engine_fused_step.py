"""The step with fused kernels, interpreted on the CPU, against the step in torch's own operations."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from interpreted_bf16 import widen_products
from tiny_net import TinyNet, draw_images
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from triton.runtime.interpreter import InterpretedFunction

from normbench import NormResNet, kernels, make_norm
from normbench.config.schema import TrainConfig
from normbench.engine.augment import draw_crop_flip
from normbench.engine.batches import DeviceImages, epoch_order
from normbench.engine.precompile import compile_for
from normbench.engine.schedule import learning_rates
from normbench.engine.step.build import build_step
from normbench.engine.step.eager import EagerStep
from normbench.engine.step.fused import FusedStep, autocast_parameters
from normbench.engine.step.objective import CrossEntropy
from normbench.engine.step.state import StepSettings
from normbench.kernels import conv_plan
from normbench.layers.conv2d import Conv2d
from normbench.layers.conv_stack import ConvStack
from normbench.layers.pooled_linear import PooledLinear

pytestmark = pytest.mark.usefixtures("interpreted_on_poisoned_memory")

CPU = torch.device("cpu")
BATCH = 16
STEPS = 3  # an epoch of 40 images: 16, 16 and 8


@pytest.fixture
def train_images() -> DeviceImages:
    pixels, labels = draw_images(40, 1)
    return DeviceImages(pixels[:, :16, :16].copy(), labels, CPU, channels_last=True)


class Run:
    """Two epochs of one of the two steps, from the same start."""

    def __init__(self, images: DeviceImages, net: nn.Module, *, fused: bool, bf16: bool = False, **train: Any) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        config = TrainConfig.model_validate({"lr": 0.02, "batch_size": BATCH, "weight_decay": 0.3, **train})
        settings = StepSettings(
            batch_size=BATCH,
            num_images=len(images),
            num_epochs=2,
            learning_rates=learning_rates("one_cycle", config.learning_rate, 2 * STEPS),
            augment=config.augment == "crop_flip",
            device="cpu",
            precision="bf16" if bf16 else "fp32",
            engine="graph" if fused else "eager",
        )
        self.step = build_step(net, CrossEntropy(config.label_smoothing), images, config, settings)
        assert isinstance(self.step, FusedStep if fused else EagerStep)
        self.state = self.step.state
        self.optimizer = self.step.optimizer
        self.losses: list[float] = []
        self.num_correct: list[int] = []

    def train(self, first_epoch: int = 0, epochs: int = 2) -> Run:
        self.step.refresh()
        for epoch in range(first_epoch, first_epoch + epochs):
            flips = None if self.state.crop_flip is None else draw_crop_flip(40, 7, epoch)
            order = epoch_order(40, 7, epoch)
            self.state.start_epoch(order, flips, global_step=STEPS * epoch, step_in_epoch=0, num_correct=0)
            for size in (16, 16, 8):
                self.step.run(size)
            self.losses += self.state.losses.flatten().tolist()
            self.num_correct.append(int(self.state.num_correct))
        assert int(self.state.global_step) == STEPS * (first_epoch + epochs)
        return self


def pair(images: DeviceImages, norm: str | None = None, **train: Any) -> tuple[Run, Run]:
    def net() -> nn.Module:
        return TinyNet(None if norm is None else make_norm(norm)(8))

    return Run(images, net(), fused=True, **train).train(), Run(images, net(), fused=False, **train).train()


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "augment": "crop_flip"},
        {"optimizer": "sgd", "label_smoothing": 0.2},
        {"optimizer": "sgd", "lookahead": {"every": 4}},
        {"optimizer": "adam", "lookahead": {"every": 1, "decay": 0.5, "power": 0}},
        {"optimizer": "sgd", "momentum": 0.0, "augment": "crop_flip", "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_fused_and_eager_steps_agree(train_images: DeviceImages, train: dict[str, Any]) -> None:
    fused, plain = pair(train_images, "gn", **train)  # after a BN, the convolution's bias follows rounding noise
    assert fused.losses == pytest.approx(plain.losses, rel=1e-5)
    assert fused.num_correct == plain.num_correct
    for (name, ours), theirs in zip(fused.net.state_dict().items(), plain.net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_layers_that_follow_training_do_so(train_images: DeviceImages) -> None:
    fused, plain = pair(train_images, "bin")  # its gates learn ten times as fast and are clamped after each step
    gates = [run.net.get_parameter("norm.gate") for run in (fused, plain)]
    assert (gates[1] == 1).any()
    torch.testing.assert_close(gates[0], gates[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weight", ["ws", "sws"])
def test_weights_standardized_all_at_once_train_like_each_layer_by_itself(
    train_images: DeviceImages, weight: str
) -> None:
    def net() -> nn.Module:
        torch.manual_seed(3)
        conv2d = make_norm(f"none+{weight}").conv2d
        return nn.Sequential(
            conv2d(3, 5, 4, stride=4, bias=True), nn.ReLU(), conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)
        )

    ours = net()
    fused = Run(train_images, ours, fused=True, optimizer="adam").train(0, 1)
    plain = Run(train_images, net(), fused=False, optimizer="adam").train(0, 1)
    assert len(fused.step.standardized) == 1
    assert len(fused.step.standardized[0].leaves) == 2
    assert fused.losses == pytest.approx(plain.losses, rel=1e-5)
    assert ours.state_dict().keys() == plain.net.state_dict().keys()
    for (name, value), theirs in zip(ours.state_dict().items(), plain.net.state_dict().values(), strict=True):
        torch.testing.assert_close(value, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_bf16_copies_compute_what_autocast_does(train_images: DeviceImages) -> None:
    fused, plain = pair(train_images, "gn", bf16=True, optimizer="adam")
    exact = Run(train_images, TinyNet(make_norm("gn")(8)), fused=False, optimizer="adam").train()
    assert fused.losses != exact.losses
    # Not the same here: the interpreter truncates where a GPU rounds.
    assert fused.losses == pytest.approx(plain.losses, rel=2e-3)
    for run in (fused, plain):
        assert all(parameter.dtype == torch.float32 for parameter in run.net.parameters())


def test_images_are_convolved_by_the_kernel_as_by_torch(
    train_images: DeviceImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    widen_products(monkeypatch)
    launches = []
    convolve = kernels.convolve_images
    monkeypatch.setattr(
        kernels,
        "convolve_images",
        lambda images, weight, **bias: launches.append(weight.dtype) or convolve(images, weight, **bias),
    )

    def net(build: type[nn.Conv2d]) -> TinyNet:
        net = TinyNet(make_norm("gn")(8))
        torch.manual_seed(3)
        net.conv = build(3, 8, 3, padding=1, bias=False)
        return net

    fused = Run(train_images, net(Conv2d), fused=True, bf16=True, optimizer="adam").train(0, 1)
    assert launches == [torch.bfloat16] * STEPS
    plain = Run(train_images, net(nn.Conv2d), fused=False, bf16=True, optimizer="adam").train(0, 1)
    assert len(launches) == STEPS
    assert fused.losses == pytest.approx(plain.losses, rel=2e-3)
    torch.testing.assert_close(fused.net.conv.weight, plain.net.conv.weight, rtol=0, atol=2e-2)


class PoolingNet(TinyNet):
    """Its last layer takes the mean itself."""

    def __init__(self) -> None:
        super().__init__(make_norm("gn")(8))
        head = PooledLinear(8, 10)
        head.load_state_dict(self.head.state_dict())
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu())


def test_the_head_is_computed_by_the_kernel_as_by_torch(
    train_images: DeviceImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    widen_products(monkeypatch)
    launches = []
    pooled = kernels.pooled_linear
    monkeypatch.setattr(
        kernels, "pooled_linear", lambda x, *layer: launches.append(layer[0].dtype) or pooled(x, *layer)
    )
    ours = PoolingNet()
    assert {"head.weight", "head.bias"} < set(autocast_parameters(ours))
    fused = Run(train_images, ours, fused=True, bf16=True, optimizer="adam").train(0, 1)
    assert launches == [torch.bfloat16] * STEPS
    plain = Run(train_images, TinyNet(make_norm("gn")(8)), fused=False, bf16=True, optimizer="adam").train(0, 1)
    assert len(launches) == STEPS
    assert fused.losses == pytest.approx(plain.losses, rel=3e-3)
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(fused.net.get_parameter(name), plain.net.get_parameter(name), rtol=0, atol=2e-2)


def test_a_state_put_back_goes_on_as_if_never_stopped(train_images: DeviceImages) -> None:
    straight = Run(train_images, TinyNet(), fused=True).train()  # in fp32: the interpreter truncates to bf16
    first = Run(train_images, TinyNet(), fused=True).train(0, 1)
    second = Run(train_images, TinyNet(seed=1), fused=True)
    second.net.load_state_dict(first.net.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert first.losses + second.train(1, 1).losses == straight.losses


def test_gradients_of_layers_reach_the_optimizer_in_shares(
    train_images: DeviceImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    widen_products(monkeypatch)
    monkeypatch.setattr(conv_plan, "SHARE_STEPS", 1)

    def net(build: type[nn.Conv2d]) -> nn.Module:
        torch.manual_seed(3)
        first, second = nn.Conv2d(3, 16, 3, stride=4, padding=1), build(16, 16, 3, padding=1, bias=False)
        return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(256, 10))

    fused = Run(train_images, net(Conv2d), fused=True, bf16=True, optimizer="sgd").train(0, 1)
    copy = fused.optimizer._copies[fused.net[2].weight]
    assert copy.grad is None
    assert len(copy.gradient_shares.tensor) == 2  # of the last batch, of 8 images
    plain = Run(train_images, net(nn.Conv2d), fused=False, bf16=True, optimizer="sgd").train(0, 1)
    assert fused.losses == pytest.approx(plain.losses, rel=5e-3)
    weights = [run.net[2].weight.detach() for run in (fused, plain)]
    start = net(nn.Conv2d)[2].weight.detach()
    assert (weights[0] - weights[1]).norm() < 0.05 * (weights[1] - start).norm()


NORMS: dict[str, dict[str, int]] = {
    "none": {},
    "bn+sws": {},
    "ghost_bn": {"norm_batch_size": 4},
}  # takes no two


@pytest.mark.parametrize("norm", NORMS)
def test_all_that_steps_launch_is_compiled_ahead(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for the same dtypes, constants and kinds of numbers, and no launch before its time."""
    seen: dict[bool, set[object]] = {True: set(), False: set()}
    run = InterpretedFunction.run

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        facts = [
            a.dtype if isinstance(a, torch.Tensor) else (a == 1, a % 16 == 0) if isinstance(a, int) else type(a)
            for a in arguments
        ]
        seen[warmup].add((self.fn.__name__, *facts, *settings.items()))
        return run(self, *arguments, grid=grid, warmup=warmup, **settings)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    factory, has_bias = make_norm(norm, **NORMS[norm]), norm == "ghost_bn"
    net = nn.Sequential(
        ConvStack(
            factory.conv2d(3, 16, 3, padding=1, bias=has_bias), factory.norm_act(16),
            factory.conv2d(16, 32, 3, stride=2, padding=1, bias=has_bias), factory.norm_act(32),
            nn.Conv2d(32, 12, 3, stride=4), factory.norm_act(12),
        ),
        PooledLinear(12, 10),
    )  # fmt: skip
    widen_products(monkeypatch)
    pixels, labels = draw_images(40, 1)
    images = DeviceImages(pixels[:, :8, :8].copy(), labels, CPU, channels_last=True)
    fused = Run(images, net, fused=True, bf16=True)
    compile_for([fused.step], max_workers=1)
    assert not seen[False]
    for size in (BATCH, BATCH // 2):
        fused.step.run(size)
    assert {kernel for kernel, *_ in seen[False]} >= {
        "assemble", "cross_entropy", "update_adam", "forward", "backward", "weight_gradient",
    }  # fmt: skip
    assert seen[False] <= seen[True]


def test_a_captured_training_needs_no_compiler_of_torchs() -> None:
    """Importing it takes seconds of every start."""
    program = """
import sys, torch
from torch import nn
from normbench import make_norm
from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.device import set_arithmetic, set_default_arithmetic
from normbench.engine.optimizer import Snapshot
from normbench.engine.precompile import compile_for
from normbench.engine.step.build import build_step
from normbench.engine.step.objective import CrossEntropy
from normbench.engine.step.state import StepSettings
from normbench.layers.pooled_linear import PooledLinear
set_arithmetic("bf16", "cuda")
assert torch.are_deterministic_algorithms_enabled()
set_default_arithmetic("cuda")
assert not torch.are_deterministic_algorithms_enabled()
pixels = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).numpy()
images = DeviceImages(pixels, torch.zeros(2).numpy(), "cpu", channels_last=True)
bn = make_norm("bn")
net = nn.Sequential(bn.conv2d(3, 8, 3, padding=1, bias=False), bn.norm_act(8), PooledLinear(8, 10))
net = net.to(memory_format=torch.channels_last)
settings = StepSettings(2, 2, 1, torch.ones(1), False, "cpu", "bf16", "graph")
step = build_step(net, CrossEntropy(), images, TrainConfig(), settings)
snapshot = Snapshot(net, step.optimizer)
compile_for([step], max_workers=1)
step(0)
snapshot.restore()
step.optimizer.load_state_dict(step.optimizer.state_dict())
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_which_weights_have_bf16_copies() -> None:
    net = NormResNet(norm=make_norm("gn"))
    assert autocast_parameters(net) == [
        name for name, p in net.named_parameters() if p.ndim > 1 or "classifier" in name
    ]
    assert autocast_parameters(NormResNet(norm=make_norm("gn+ws"))) == ["classifier.weight", "classifier.bias"]
