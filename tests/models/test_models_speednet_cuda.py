"""Needs a CUDA device: SpeedNet in its kernels, against torch's operations, and the same in any process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.device import Engine, Precision
from normbench.engine.precompile import compile_for
from normbench.engine.step.prepare import prepare
from normbench.engine.trainer import Trainer
from normbench.kernels import convolve_patches_gelu, pool_maxima
from normbench.kernels.support import switched_off
from normbench.models import build_model
from normbench.norms import make_norm
from normbench.runs.events import StepsDone

pytestmark = pytest.mark.gpu
TRAIN = {
    "epochs": 2, "batch_size": 64, "optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-3, "schedule": "one_cycle",
    "label_smoothing": 0.2, "augment": "shift_alternate", "lookahead": {"every": 3},
}  # fmt: skip


def make_trainer(norm: str, engine: Engine, precision: Precision) -> Trainer:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    pixels = rng.integers(0, 256, (200, 32, 32, 3)) // 2 + 12 * labels[:, None, None, None]
    images = DeviceImages(pixels.astype(np.uint8), labels, torch.device("cuda"), channels_last=True)
    torch.manual_seed(0)
    model = build_model("speednet", norm=make_norm(norm))
    config = TrainConfig.model_validate(TRAIN)
    build = partial(
        ClassifierTraining, model, images, images, config, seed=3, device="cuda", precision=precision, engine=engine
    )
    return Trainer(build, "cuda")


def losses(trainer: Trainer) -> list[float]:
    return [loss for event in trainer.run() if isinstance(event, StepsDone) for (loss,) in event.losses]


# Not frn: its gradients grow a thousandfold per layer here where a channel is near zero, to 1e11, so rounding decides.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("norm", ["bn", "gn", "ghost_bn", "none"])
def test_a_captured_run_agrees_with_one_in_torchs_operations(norm: str, precision: Precision, tolerance: float) -> None:
    with switched_off():
        eager = losses(make_trainer(norm, "eager", precision))
    trainer = make_trainer(norm, "graph", precision)
    captured = losses(trainer)
    assert trainer.step.fallback_reason is None
    np.testing.assert_allclose(captured, eager, rtol=tolerance)


@pytest.mark.parametrize("norm", ["bn", "ghost_bn"])
def test_nothing_is_compiled_in_the_first_steps(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton import knobs

    trainer = make_trainer(norm, "graph", "bf16")
    compile_for([trainer.step])
    compiled: list[str] = []
    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", lambda *, repr, **_: compiled.append(repr))
    prepare(trainer.step)
    assert compiled == []


def test_two_processes_train_to_the_same_bits() -> None:
    program = f"""
import hashlib, sys, torch
sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
from test_models_speednet_cuda import make_trainer, losses
from normbench.engine.device import set_arithmetic
set_arithmetic("bf16", "cuda", reproducible=True)
trainer = make_trainer("bn", "graph", "bf16")
found = losses(trainer)
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
print(found[-1], hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest())
"""
    done = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2)]
    assert done[0].returncode == 0, done[0].stderr
    assert done[0].stdout == done[1].stdout


@pytest.mark.parametrize("shape", [(64, 64, 31, 31), (5, 24, 7, 6), (3, 5, 9, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_maxima_and_gradients_are_torchs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, shape, generator=source).to("cuda", dtype, memory_format=torch.channels_last)
    x.requires_grad_()
    expected, y = functional.max_pool2d(x, 2), pool_maxima(x)
    grad = torch.randn(y.shape, generator=source).to("cuda", dtype)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(each, x, grad)[0] for each in (y, expected)))


def test_fixed_filters_with_a_gelu_match_the_formula_and_repeat() -> None:
    source = torch.Generator().manual_seed(0)
    images = torch.randn(300, 3, 32, 32, generator=source).cuda().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(24, 3, 2, 2, generator=source).cuda(), torch.randn(24, generator=source).cuda()
    bias.requires_grad_()
    y = convolve_patches_gelu(images, weight, bias, torch.bfloat16)
    grad = torch.randn(y.shape, generator=source).to("cuda", torch.bfloat16)
    exact = bias.detach().double().requires_grad_()
    expected = functional.gelu(functional.conv2d(images.double(), weight.double(), exact))
    (gradient,) = torch.autograd.grad(expected, exact, grad.double())
    found = [torch.autograd.grad(y, bias, grad, retain_graph=True)[0] for _ in range(2)]
    torch.testing.assert_close(y.double(), expected, rtol=4e-3, atol=1e-6)
    torch.testing.assert_close(found[0].double(), gradient, rtol=1e-4, atol=1e-2)
    assert torch.equal(*found)
