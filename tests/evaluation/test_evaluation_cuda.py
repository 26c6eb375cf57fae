"""Evaluation and batches in parts on a GPU: what a CPU gives, and captured steps what eager ones give."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from normbench.config.schema import EvaluateConfig, TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.device import set_arithmetic
from normbench.engine.evaluate import RepeatedEvaluation, classify
from normbench.engine.trainer import Trainer
from normbench.evaluation.corruptions import KINDS, corrupt, corrupted
from normbench.evaluation.measure import Subject, evaluate_all
from normbench.evaluation.statistics import depends_on_batch_or_mode
from normbench.kernels.support import switched_off
from normbench.models import build_model
from normbench.norms import make_norm

pytestmark = pytest.mark.gpu

NOT_RANDOM = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


def draw(count: int, seed: int, device: str) -> DeviceImages:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    images = rng.integers(0, 128, (count, 32, 32, 3)) + 12 * labels[:, None, None, None]
    return DeviceImages(images.astype(np.uint8), labels, device, channels_last=True)


@pytest.mark.parametrize("kind", NOT_RANDOM)
def test_corruptions_without_chance_are_the_same_on_both_devices(kind: str) -> None:
    on_cpu = corrupt(draw(8, 0, "cpu").images, kind, 4, 0).int()
    on_gpu = corrupt(draw(8, 0, "cuda").images, kind, 4, 0).cpu().int()
    difference = (on_cpu - on_gpu).abs()
    assert float((difference > 1).float().mean()) < 0.01  # a rounding may fall on the other side


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_are_drawn_again_the_same_on_a_gpu(kind: str) -> None:
    images = draw(1500, 0, "cuda").images
    found = corrupt(images, kind, 3, 1)
    assert torch.equal(found, corrupt(images, kind, 3, 1))
    assert found.shape == images.shape
    assert found.float().std() > 1


def test_an_evaluation_says_the_same_on_both_devices() -> None:
    torch.manual_seed(0)
    model = build_model("norm_resnet_small", norm=make_norm("bn")).eval()
    set_arithmetic("fp32", "cuda")
    records = []
    for device in ("cpu", "cuda"):
        moved = model.to(device=device, memory_format=torch.channels_last)
        subject = Subject(
            moved, draw(600, 1, device), draw(300, 2, device), tuple("abcdefghij"), "test", device, "fp32"
        )
        records.append(evaluate_all(subject, EvaluateConfig(batch_sizes=(8,))))
    on_cpu, on_gpu = records
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    assert np.mean(on_cpu.hit_bits != on_gpu.hit_bits) < 0.02
    for left, right in zip(on_cpu.statistics, on_gpu.statistics, strict=True):
        assert right.loss == pytest.approx(left.loss, rel=1e-3)


@pytest.mark.parametrize(("norm", "depends"), [("bn", True), ("gn", False), ("in", False), ("gn+ws", False)])
def test_bf16_on_a_gpu_makes_no_norm_depend_on_its_batch(norm: str, depends: bool) -> None:
    set_arithmetic("bf16", "cuda")
    torch.manual_seed(0)
    model = build_model("norm_resnet", norm=make_norm(norm)).to(device="cuda", memory_format=torch.channels_last)
    assert depends_on_batch_or_mode(model, draw(20, 4, "cuda"), "cuda") is depends


@pytest.mark.parametrize(
    ("norm", "mode", "batch_size", "has_own_stream"),
    [
        ("bn", "train", 1, False),
        ("bn", "train", 64, True),
        ("brn", "train", 64, True),
        ("bn", "eval", 64, False),
        ("gn+ws", "eval", 64, True),
    ],
)
def test_a_replayed_evaluation_is_the_same_bits_as_one_batch_by_batch(
    norm: str, mode: str, batch_size: int, has_own_stream: bool
) -> None:
    set_arithmetic("bf16", "cuda")
    with torch.cuda.stream(torch.cuda.Stream() if has_own_stream else None):  # as a run beside others has
        model = build(norm).to(device="cuda", memory_format=torch.channels_last).train(mode == "train")  # type: ignore[call-overload]
        where = draw(300, 2, "cuda"), "cuda", "bf16", batch_size
        replayed = RepeatedEvaluation(copy.deepcopy(model), *where, in_training_mode=mode == "train")  # type: ignore[arg-type]
        replayed.warm_up_and_capture()
        assert replayed.is_captured
        for seed in (2, 3, 2):
            images = draw(300, seed, "cuda")
            fresh, loss, hits = copy.deepcopy(model), torch.zeros((), device="cuda"), 0
            with torch.no_grad(), switched_off() if mode == "train" else nullcontext():
                for logits, labels in classify(fresh, images, "cuda", "bf16", batch_size):
                    loss += nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
                    hits += int((logits.argmax(1) == labels).sum())
            found = replayed.launch(images).result()
            assert (found.loss, found.accuracy) == (float(loss) / 300, hits / 300)


def test_corrupted_images_are_drawn_once_for_all_runs_of_a_process() -> None:
    images = draw(200, 0, "cuda")
    first = corrupted(images, "fog", 3, 0)
    assert corrupted(images, "fog", 3, 0) is first
    assert torch.equal(first.images, corrupt(images.images, "fog", 3, 0))
    assert not torch.equal(first.images, corrupted(images, "fog", 3, 1).images)


def train(model: nn.Module, engine: str, **train: object) -> tuple[np.ndarray, Trainer]:
    set_arithmetic("fp32", "cuda")
    settings = TrainConfig.model_validate(
        {"epochs": 2, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.02, **train}
    )
    images = draw(200, 1, "cuda")
    trainer = Trainer(
        lambda: ClassifierTraining(
            model,
            images,
            images,
            settings,
            seed=3,
            device="cuda",
            precision="fp32",
            engine=engine,  # type: ignore[arg-type]
        ),
        "cuda",
    )
    list(trainer.run())
    return np.array(trainer.losses)[:, 0], trainer


def build(norm: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model("norm_resnet_small", norm=make_norm(norm))


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_captured_parts_train_like_eager_ones(norm: str) -> None:
    eager, _ = train(build(norm), "eager", micro_batch=24)
    captured, trainer = train(build(norm), "graph", micro_batch=24)
    assert trainer.step.graphs, trainer.step.fallback_reason
    np.testing.assert_allclose(captured, eager, rtol=2e-3)


def test_synchronized_parts_are_the_whole_batch_also_when_captured() -> None:
    whole, _ = train(build("bn"), "eager")
    in_parts, trainer = train(build("bn"), "graph", micro_batch=24, sync_statistics=True)
    assert trainer.step.graphs, trainer.step.fallback_reason
    np.testing.assert_allclose(in_parts, whole, rtol=2e-3)
