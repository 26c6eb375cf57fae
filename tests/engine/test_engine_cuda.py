"""Needs a CUDA device: a captured step must compute what an eager one does."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normbench import NormResNet, make_norm
from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.device import Engine, Precision
from normbench.engine.memory import MemoryMeter
from normbench.engine.precompile import compile_for
from normbench.engine.step.fused import FusedStep
from normbench.engine.step.prepare import prepare, warm_up
from normbench.engine.trainer import Trainer
from normbench.models.transformer import VisionTransformer
from normbench.norms import NORMS, make_sequence_norm
from normbench.runs.events import EpochDone, StepsDone

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def images() -> DeviceImages:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    pixels = rng.integers(0, 256, (200, 32, 32, 3)) // 2 + 12 * labels[:, None, None, None]
    return DeviceImages(pixels.astype(np.uint8), labels, torch.device("cuda"), channels_last=True)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    yield
    torch.backends.cudnn.deterministic = False


def make_trainer(
    images: DeviceImages,
    norm: str | Callable[[int], nn.Module],
    engine: Engine,
    precision: Precision = "fp32",
    **train: object,
) -> Trainer:
    torch.manual_seed(0)
    config = TrainConfig.model_validate({"epochs": 2, "batch_size": 64, **train})
    model = NormResNet(norm=make_norm(norm) if isinstance(norm, str) else norm)
    build = partial(
        ClassifierTraining, model, images, images, config, seed=3, device="cuda", precision=precision, engine=engine
    )
    return Trainer(build, "cuda")


def losses(
    images: DeviceImages, norm: str, engine: Engine, precision: Precision = "fp32", **train: object
) -> tuple[list[float], Trainer]:
    trainer = make_trainer(images, norm, engine, precision, **train)
    found = [loss for event in trainer.run() if isinstance(event, StepsDone) for (loss,) in event.losses]
    return found, trainer


@pytest.mark.parametrize("norm", list(NORMS))
def test_a_captured_run_agrees_with_an_eager_run_step_by_step(images: DeviceImages, norm: str) -> None:
    # SGD at a low rate: weights that differ by 1e-6 then differ in their losses by at most 1e-5 after these steps. At
    # 0.01 it is up to 4e-4 (frn, ln); Adam's first steps move every weight by the whole rate, rounding or not.
    train = {"optimizer": "sgd", "learning_rate": 0.001}
    eager, _ = losses(images, norm, "eager", **train)
    captured, trainer = losses(images, norm, "graph", **train)
    assert trainer.step.fallback_reason is None
    assert len(captured) == 8  # 4 steps an epoch, the last of 8 images
    np.testing.assert_allclose(captured, eager, rtol=1e-4)


def test_adam_makes_the_same_first_steps(images: DeviceImages) -> None:
    eager, _ = losses(images, "gn", "eager")
    captured, _ = losses(images, "gn", "graph")
    np.testing.assert_allclose(captured[:2], eager[:2], rtol=1e-4)
    np.testing.assert_allclose(captured, eager, rtol=1e-2)


ONE_CYCLE = {"optimizer": "sgd", "learning_rate": 0.005, "schedule": "one_cycle"}
AUGMENTED = {**ONE_CYCLE, "augment": "crop_flip", "label_smoothing": 0.1}
COSINE = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.1, "schedule": "cosine"}


@pytest.mark.parametrize("train", [AUGMENTED, COSINE])
def test_schedules_and_augmentation_are_captured_too(images: DeviceImages, train: dict[str, object]) -> None:
    eager, _ = losses(images, "gn", "eager", **train)
    captured, _ = losses(images, "gn", "graph", **train)
    np.testing.assert_allclose(captured, eager, rtol=1e-3)


@pytest.mark.parametrize("norm", ["none", "bn", "gn+ws", "gn+sws", "derf", "evonorm_s0", "sn"])
def test_in_bf16_too(images: DeviceImages, norm: str) -> None:
    eager, _ = losses(images, norm, "eager", "bf16")
    captured, trainer = losses(images, norm, "graph", "bf16")
    assert isinstance(trainer.step, FusedStep)
    np.testing.assert_allclose(captured, eager, rtol=2e-2)


def warm_up_only(steps: Any, *, rewind: Any, begin: object, finish: object) -> tuple[list[Any], None]:
    warm_up(steps, rewind)
    return [], None


@pytest.mark.parametrize("train", [{}, {"optimizer": "sgd", "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_of_both_batch_sizes_find_their_own_gradients(
    images: DeviceImages, precision: Precision, train: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, trainer = losses(images, "gn", "graph", precision, epochs=3, **train)
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    # The same kernels, launched one by one: every step's gradients lie wherever the allocator puts them.
    monkeypatch.setattr("normbench.engine.step.prepare.warm_up_and_capture", warm_up_only)
    eager, trainer = losses(images, "gn", "graph", precision, epochs=3, **train)
    assert isinstance(trainer.step, FusedStep)
    assert len(captured) == 12  # 3 steps of 64 images and one of 8 in each epoch
    np.testing.assert_allclose(captured, eager, rtol=1e-5)
    for ours, theirs in zip(weights, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_captured_run_goes_on_as_if_never_stopped(images: DeviceImages, precision: Precision) -> None:
    straight, _ = losses(images, "bn", "graph", precision)
    first = make_trainer(images, "bn", "graph", precision)
    head: list[float] = []
    for event in first.run():
        if isinstance(event, StepsDone):
            head += [loss for (loss,) in event.losses]
        if isinstance(event, EpochDone):
            break
    second = make_trainer(images, "bn", "graph", precision)
    second.load_state_dict(first.state_dict())
    tail = [loss for event in second.run() if isinstance(event, StepsDone) for (loss,) in event.losses]
    np.testing.assert_allclose(head + tail, straight, rtol=1e-5)


def rows_and_peak(
    norm: str | Callable[[int], nn.Module], precision: Precision, *, has_own_stream: bool = False
) -> tuple[list[tuple[float, float]], float, bool]:
    """Train on 1,203 images, and evaluate them: losses and accuracies, the peak, and if that was replayed."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1203)
    pixels = rng.integers(0, 128, (1203, 32, 32, 3)) + 12 * labels[:, None, None, None]
    images = DeviceImages(pixels.astype(np.uint8), labels, torch.device("cuda"), channels_last=True)
    with torch.cuda.stream(torch.cuda.Stream() if has_own_stream else None):  # as a run beside others has
        trainer = make_trainer(images, norm, "graph", precision, epochs=3)
        rows = [event.row for event in trainer.run() if isinstance(event, EpochDone)]
    peak = trainer.memory.peak_mib()
    assert trainer.step.fallback_reason is None
    assert peak is not None
    return [(row.test_loss, row.test_accuracy) for row in rows], peak, trainer._training._evaluation.is_captured  # type: ignore[attr-defined]


@pytest.mark.parametrize("has_own_stream", [False, True])
@pytest.mark.parametrize(("norm", "precision"), [("bn", "bf16"), ("brn", "bf16"), ("gn+ws", "bf16"), ("gn", "fp32"),
                                                 ("sn", "bf16"), ("bn_nostats", "bf16")])  # fmt: skip
def test_evaluations_that_are_replayed_give_the_bits_and_the_peak_of_those_batch_by_batch(
    norm: str, precision: Precision, has_own_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed, peak, is_replayed = rows_and_peak(norm, precision, has_own_stream=has_own_stream)
    monkeypatch.setattr("normbench.engine.evaluate.capture_into", lambda *_: None)
    one_by_one, peak_one_by_one, is_replayed_too = rows_and_peak(norm, precision, has_own_stream=has_own_stream)
    assert (is_replayed, is_replayed_too) == (True, False)
    assert replayed == one_by_one
    assert len(set(replayed)) == 3, "each epoch has weights of its own"
    assert peak == pytest.approx(peak_one_by_one, rel=0.15)  # the allocator's blocks differ in size from run to run


class Asking(nn.BatchNorm2d):
    """Looks at its input in one mode, which no graph can do again."""

    def __init__(self, num_channels: int, *, in_training: bool) -> None:
        super().__init__(num_channels)
        self.in_training = in_training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training == self.in_training:
            assert x.isfinite().all().item()
        return super().forward(x)


def assert_all_memory_is_given_back() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 64 * 2**20


def test_a_norm_whose_evaluation_cannot_be_captured_is_evaluated_batch_by_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norm = partial(Asking, in_training=False)
    rows, _, is_replayed = rows_and_peak(norm, "bf16")
    monkeypatch.setattr("normbench.engine.evaluate.capture_into", lambda *_: None)
    expected, _, _ = rows_and_peak(norm, "bf16")
    assert not is_replayed
    assert rows == expected
    assert_all_memory_is_given_back()


def test_a_step_that_cannot_be_captured_gives_its_memory_back(images: DeviceImages) -> None:
    trainer = make_trainer(images, partial(Asking, in_training=True), "graph", "bf16", epochs=1)
    list(trainer.run())
    assert trainer.step.fallback_reason is not None
    del trainer
    assert_all_memory_is_given_back()


def test_a_captured_step_outlives_the_meter_of_the_next_run(images: DeviceImages) -> None:
    """Which gives cuBLAS's work space back, so a graph's matrix products must have theirs in the graph's memory."""
    config = TrainConfig.model_validate({"epochs": 1, "batch_size": 64})
    model = VisionTransformer(norm=make_sequence_norm("ln"), d_model=192, depth=1)
    build = partial(
        ClassifierTraining, model, images, images, config, seed=3, device="cuda", precision="bf16", engine="graph"
    )
    trainer = Trainer(build, "cuda")
    events = trainer.run()
    while not isinstance(next(events), StepsDone):
        pass
    MemoryMeter("cuda")
    for _ in range(3):
        trainer.step.state.rewind()
        trainer.step(0)
    torch.cuda.synchronize()
    assert trainer.step.fallback_reason is None


@pytest.mark.parametrize("norm", ["bn", "in", "gn+ws", "bn+sws", "dyt", "frn", "ln2d", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_compiled_in_the_first_steps(
    images: DeviceImages, norm: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    trainer = make_trainer(images, norm, "graph", precision)
    compile_for([trainer.step])
    compiled: list[str] = []
    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", lambda *, repr, **_: compiled.append(repr))
    prepare(trainer.step)
    assert compiled == []
    assert trainer.step.fallback_reason is None
