"""Needs a CUDA device: probes leave a captured training's bits alone, and measure what a CPU measures."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from normbench import NormResNet, make_norm
from normbench.config.probes import ProbesConfig
from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.device import DeviceName, Engine, Precision, full_precision, set_arithmetic
from normbench.engine.probes.moment import Moment
from normbench.engine.probes.schedule import build_probes
from normbench.engine.step.objective import CrossEntropy
from normbench.engine.trainer import Trainer
from normbench.kernels.support import switched_off
from normbench.runs.events import ProbeFailed, StepsDone
from normbench.runs.probe_files import CurvatureRow, LandscapeRow, SignalsRow

pytestmark = pytest.mark.gpu
PROBES = ProbesConfig.model_validate(
    {"landscape": {"every": 2}, "signals": {"every": 3}, "curvature": {"every": 4, "iterations": 8}}
)


def images_on(device: DeviceName) -> DeviceImages:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    pixels = rng.integers(0, 256, (200, 32, 32, 3)) // 2 + 12 * labels[:, None, None, None]
    return DeviceImages(pixels.astype(np.uint8), labels, torch.device(device), channels_last=True)


def make_trainer(
    norm: str,
    probes: ProbesConfig | None,
    device: DeviceName = "cuda",
    engine: Engine = "graph",
    precision: Precision = "bf16",
) -> Trainer:
    set_arithmetic(precision, device)
    torch.manual_seed(0)
    images = images_on(device)
    config = TrainConfig.model_validate({"epochs": 2, "batch_size": 64, "augment": "crop_flip"})
    model = NormResNet(norm=make_norm(norm))
    build = partial(
        ClassifierTraining, model, images, images, config, seed=3, device=device, precision=precision, engine=engine
    )
    return Trainer(build, device, probes=build_probes(probes))


@pytest.mark.parametrize("norm", ["bn", "gn+ws", "none", "frn"])
def test_probes_leave_the_bits_of_a_captured_training_alone(norm: str) -> None:
    plain, probed = make_trainer(norm, None), make_trainer(norm, PROBES)
    losses, weights = [], []
    for trainer in (plain, probed):
        events = list(trainer.run())
        assert not [event for event in events if isinstance(event, ProbeFailed)]
        losses.append([loss for event in events if isinstance(event, StepsDone) for loss in event.losses])
        weights.append({name: tensor.cpu() for name, tensor in trainer.model.state_dict().items()})
        assert trainer.step.fallback_reason is None
    assert losses[0] == losses[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert {name: [row.step for row in rows] for name, rows in probed.probe_rows.items()} == {
        "landscape": [0, 2, 4, 6], "signals": [0, 3, 6], "curvature": [0, 4]
    }  # fmt: skip


def measured(norm: str, device: DeviceName) -> tuple[LandscapeRow, SignalsRow, CurvatureRow]:
    """Return what each probe measures of one network and batch on a device."""
    torch.manual_seed(0)
    model = NormResNet(norm=make_norm(norm), channels=(16, 32, 64, 128)).to(device)
    images, labels = images_on("cpu").batch(torch.arange(64))
    batch = normalize(images.contiguous()).to(device), labels.to(device)
    rows = []
    with full_precision(device), switched_off():
        for probe in build_probes(PROBES):
            rows.append(probe.measure(Moment(0, 1e-3, copy.deepcopy(model), CrossEntropy(), *batch)))
    landscape, signals, curvature = rows
    assert isinstance(landscape, LandscapeRow)
    assert isinstance(signals, SignalsRow)
    assert isinstance(curvature, CurvatureRow)
    return landscape, signals, curvature


@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_a_gpu_measures_what_a_cpu_measures(norm: str) -> None:
    (landscape, signals, curvature), cpu = measured(norm, "cuda"), measured(norm, "cpu")
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-4)
    for name in ("loss", "gradient_norm", "weight_norm", "losses", "cosines", "gradient_distances"):
        close(getattr(landscape, name), getattr(cpu[0], name), err_msg=name)
    for a, b in zip(signals.norms, cpu[1].norms, strict=True):
        close([a.before.std, a.after.std, a.after.zero_share, a.stable_rank, a.similarity],
              [b.before.std, b.after.std, b.after.zero_share, b.stable_rank, b.similarity])  # fmt: skip
    for c, d in zip(signals.weights, cpu[1].weights, strict=True):
        close([c.gradient_norm, c.weight_norm], [d.gradient_norm, d.weight_norm])
    close([curvature.eigenvalue, curvature.residual], [cpu[2].eigenvalue, cpu[2].residual], rtol=2e-2)
