"""The one place that chooses how a training step runs."""

from __future__ import annotations

from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.batches import DeviceImages
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.lookahead import Lookahead
from normbench.engine.optimizer import Optimizer, build_optimizer, parameter_groups
from normbench.engine.schedule import lookahead_decays
from normbench.engine.step.accumulated import AccumulatedStep
from normbench.engine.step.base import TrainStep
from normbench.engine.step.eager import EagerStep
from normbench.engine.step.fused import FusedStep
from normbench.engine.step.objective import CrossEntropy, Objective
from normbench.engine.step.state import StepSettings, StepState
from normbench.kernels.support import unsupported_device_reason


def build_step(
    model: nn.Module, objective: Objective, images: DeviceImages, train: TrainConfig, settings: StepSettings
) -> TrainStep:
    """Return the training step of `model` on `images`, with the optimizer that `train` names.

    Fused where a classifier is to be captured and there are kernels; eager everywhere else. `prepare` then captures the
    step (`engine: graph`), and an eager step under `engine: compile` runs a compiled model.
    """
    device = images.labels.device
    state = StepState(settings, objective.num_losses, device)
    rates = state.learning_rates
    decays = None if train.lookahead is None else lookahead_decays(train.lookahead, settings.num_steps).to(device)
    has_kernels = settings.engine == "graph" and unsupported_device_reason(device) is None
    if has_kernels and settings.micro_batch is None and isinstance(objective, CrossEntropy) and rates is not None:
        flat = FlatOptimizer(parameter_groups(model, train), train, rates, state.global_step, decays)
        return FusedStep(model, flat, objective, images, settings, state)
    capturable = settings.device == "cuda" and settings.engine != "eager"
    plain = build_optimizer(model, train, capturable=capturable)
    optimizer: Optimizer = plain if decays is None else Lookahead(plain, decays, state.global_step)
    kind = EagerStep if settings.micro_batch is None else AccumulatedStep
    return kind(model, optimizer, objective, images, settings, state)
