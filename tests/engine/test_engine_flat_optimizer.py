"""The optimizer's kernel, interpreted on the CPU, against torch's optimizers, wherever its gradients are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.config.schema import TrainConfig
from normbench.engine import flat_optimizer, gradient_addresses
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.kernels import train_step as step

pytestmark = pytest.mark.usefixtures("interpreted_on_poisoned_memory")

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
}
RATES = torch.linspace(0.02, 0.01, 8)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


class Pair:
    """The same parameters under the flat optimizer and under torch's, with the same gradients."""

    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(0)
        train = TrainConfig.model_validate(OPTIMIZERS[optimizer])
        self.parameters = {
            "images": nn.Parameter(draw(50, 3, 3, 3).to(memory_format=torch.channels_last)),  # 1350: two blocks
            "convolution": nn.Parameter(draw(64, 32, 1, 1).to(memory_format=torch.channels_last)),  # two whole blocks
            "linear": nn.Parameter(draw(70, 33)),  # two whole blocks and a part
            "bias": nn.Parameter(draw(5)),
            "gate": nn.Parameter(draw()),
            "norm": nn.Parameter(draw(1300)),
        }
        self.expected = {name: nn.Parameter(p.detach().clone()) for name, p in self.parameters.items()}
        decaying, others = list(self.parameters)[:3], list(self.parameters)[3:]
        self.num_steps = torch.tensor(0)
        self.flat = FlatOptimizer(
            [
                {"params": [self.parameters[n] for n in decaying], "weight_decay": 0.3, "learning_rate_factor": 1.0},
                {"params": [self.parameters[n] for n in others], "weight_decay": 0.0, "learning_rate_factor": 10.0},
            ],
            train, RATES, self.num_steps,
        )  # fmt: skip
        self.leaves: dict[str, Tensor] = dict(self.parameters)
        for name in ("images", "convolution", "linear", "bias"):
            self.leaves[name] = self.flat.bf16_copy(self.parameters[name])
        kind, settings = {
            "adam": (torch.optim.Adam, {}),
            "adamw": (torch.optim.AdamW, {}),
            "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        }[optimizer]
        self.torch = kind(
            [
                {"params": [self.expected[n] for n in decaying], "weight_decay": 0.3},
                {"params": [self.expected[n] for n in others], "weight_decay": 0.0},
            ],
            lr=1.0,
            **settings,
        )

    def draw_gradients(self) -> dict[str, Tensor]:
        """Return gradients of the leaves, as autograd makes them."""
        return {name: torch.empty_like(leaf).copy_(draw(*leaf.shape)) for name, leaf in self.leaves.items()}

    def step_torch(self, gradients: dict[str, Tensor | None]) -> None:
        for group, factor in zip(self.torch.param_groups, (1.0, 10.0), strict=True):
            group["lr"] = float(RATES[int(self.num_steps) - 1]) * factor
        for name, parameter in self.expected.items():
            gradient = gradients[name]
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.float().contiguous()
        self.torch.step()

    def step(self, gradients: dict[str, Tensor | None], launch: Callable[[], None] | None = None) -> None:
        """Make a step of both; the flat one's by `launch` if given."""
        self.num_steps += 1
        if launch is None:
            for name, leaf in self.leaves.items():
                leaf.grad = gradients[name]
            launch = self.flat.step
        launch()
        self.step_torch(gradients)

    def check(self) -> None:
        for name, parameter in self.parameters.items():
            torch.testing.assert_close(parameter, self.expected[name], rtol=1e-5, atol=1e-6, msg=name)
            copy = self.leaves[name].detach()
            if copy.dtype == torch.bfloat16:
                # Not exact: the interpreter truncates where a GPU rounds.
                torch.testing.assert_close(copy.float(), parameter.detach(), rtol=2**-7, atol=0, msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_are_read_wherever_they_are(optimizer: str) -> None:
    pair = Pair(optimizer)
    kept = []  # so that each step's gradients are elsewhere
    for missing in (None, "linear", "norm", None):
        gradients: dict[str, Tensor | None] = {**pair.draw_gradients()}
        if missing is not None:
            gradients[missing] = None
        pair.step(gradients)
        kept.append(gradients)
    pair.check()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("has_gradient", [False, True], ids=["shares alone", "and a gradient of another use"])
def test_shares_of_a_gradient_are_summed_and_rounded(optimizer: str, has_gradient: bool) -> None:
    pair = Pair(optimizer)
    for num_shares in (5, 1, 0):  # of which four are summed at once
        gradients: dict[str, Tensor | None] = {**pair.draw_gradients()}
        leaf, others = pair.leaves["convolution"], gradients["convolution"]
        assert others is not None
        others.copy_(torch.randint(-9, 10, others.shape))  # whole numbers, as the interpreter truncates to bf16
        shares = torch.randint(-9, 10, (num_shares, 64, 1, 1, 32)).float()
        total = shares.double().sum(0).permute(0, 3, 1, 2)
        leaf.gradient_shares.tensor = shares if num_shares else None
        if num_shares and not has_gradient:
            gradients["convolution"] = None
        launched = {**gradients}
        if num_shares:
            gradients["convolution"] = total.bfloat16() if not has_gradient else (total + others.double()).bfloat16()
        pair.num_steps += 1
        for name, each in pair.leaves.items():
            each.grad = launched[name]
        pair.flat.step()
        pair.step_torch(gradients)
    pair.check()


def test_gradients_that_the_kernel_cannot_read_are_copied() -> None:
    pair = Pair("adam")
    gradients: dict[str, Tensor | None] = {**pair.draw_gradients()}
    gradients["linear"] = draw(33, 70).bfloat16().T  # other strides
    gradients["norm"] = draw(1301)[1:]  # not at a multiple of 16 bytes
    gradients["images"] = draw(50, 3, 3, 3).bfloat16()  # not channels_last
    for _ in range(2):
        pair.step(gradients)
        assert not (pair.flat._addresses.tensor % 16).any()
    pair.check()


def test_addresses_are_uploaded_only_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("adam")
    uploads = []
    table = pair.flat._addresses
    upload = table._upload
    monkeypatch.setattr(table, "_upload", lambda addresses: (uploads.append(addresses), upload(addresses)))
    first, second = pair.draw_gradients(), pair.draw_gradients()
    for gradients in (first, first, second, second, first):
        pair.step({**gradients})
    pair.check()
    assert len(uploads) == 3


def test_each_captured_step_keeps_the_addresses_of_its_own_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("adam")
    eager = pair.draw_gradients()
    pair.step({**eager})
    graphs, update_adam = [], step.update_adam
    for _ in range(2):
        # A capture: the launch is recorded instead of made, with the tensors it was given.
        recorded: list[Callable[[], None]] = []
        with monkeypatch.context() as capture:
            capture.setattr(gradient_addresses, "is_capturing", lambda _: True)
            capture.setattr(
                flat_optimizer, "update_adam", lambda *a, into=recorded, **k: into.append(partial(update_adam, *a, **k))
            )
            gradients = pair.draw_gradients()
            for name, leaf in pair.leaves.items():
                leaf.grad = gradients[name]
            pair.flat.step()
        pair.flat.finish_capture()
        pair.flat.zero_grad()
        graphs.append((gradients, *recorded))
    for number in (0, 1, None, 1, 0):
        if number is None:
            pair.step({**eager})
            continue
        gradients, replay = graphs[number]
        for gradient in gradients.values():  # what the graph's backward pass does
            gradient.copy_(draw(*gradient.shape))
        pair.step({**gradients}, replay)
    pair.check()


def test_parameters_begin_blocks_and_nothing_is_written_between_them() -> None:
    pair = Pair("adam")
    flat, used = pair.flat._weights, torch.zeros(len(pair.flat._weights), dtype=torch.bool)
    for _ in range(2):
        pair.step({**pair.draw_gradients()})
    for parameter in pair.parameters.values():
        start = (parameter.data_ptr() - flat.data_ptr()) // 4
        assert start % step.UPDATE_BLOCK == 0
        assert not used[start : start + parameter.numel()].any()
        used[start : start + parameter.numel()] = True
    for memory in (flat, *pair.flat._moments):
        assert not memory[~used].any()
