"""Tiny nets and images, on which a training step takes a millisecond."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from tiny_net import TinyNet, draw_images
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.trainer import Trainer

NUM_IMAGES = 40


@pytest.fixture
def interpreted_on_poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interpret the kernels on the CPU, and fill new memory with NaN, so that what no program should read shows."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def train_images() -> DeviceImages:
    return DeviceImages(*draw_images(NUM_IMAGES, 1), "cpu", channels_last=True)


@pytest.fixture
def eval_images() -> DeviceImages:
    return DeviceImages(*draw_images(30, 2), "cpu", channels_last=True)


@pytest.fixture
def make_trainer(train_images: DeviceImages, eval_images: DeviceImages) -> Callable[..., Trainer]:
    def make(
        model: nn.Module | None = None,
        *,
        seed: int = 3,
        clock: Callable[[], float] = time.perf_counter,
        **train: object,
    ) -> Trainer:
        settings = TrainConfig.model_validate({"epochs": 2, "batch_size": 16, **train})
        build = partial(
            ClassifierTraining, TinyNet() if model is None else model, train_images, eval_images, settings,
            seed=seed, device="cpu", precision="fp32", engine="eager",
        )  # fmt: skip
        return Trainer(build, "cpu", clock=clock)

    return make
