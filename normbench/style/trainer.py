"""The training of one style-transfer network: its step, captured as a CUDA graph where there is one, and its loop."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.config.style import StyleTrainConfig
from normbench.engine.batches import DeviceImages, epoch_order, normalize
from normbench.engine.device import (
    DeviceName,
    Precision,
    autocast,
    resolve_engine,
    synchronize,
)
from normbench.engine.memory import MemoryMeter, keep_freed_memory
from normbench.engine.optimizer import Snapshot, build_optimizer, load_optimizer_state
from normbench.engine.precompile import rehearse_on_few
from normbench.engine.step.capture import warm_up_and_capture
from normbench.errors import DivergedError
from normbench.kernels.launch import compile_all
from normbench.layers.hooks import modules_with_hooks
from normbench.layers.norm_act import describe_paths
from normbench.runs.events import StepsDone
from normbench.style.features import FeatureNetwork
from normbench.style.images import Pixels
from normbench.style.losses import content_loss, gram_matrix, style_loss, total_variation
from normbench.tasks.style_transfer import StyleSummary

_STEPS_BETWEEN_REPORTS = 25
_SECONDS_BETWEEN_REPORTS = 0.5


class StepLosses(NamedTuple):
    """The losses of one training step; all but the total before weighting."""

    total: float
    content: float
    style: float
    total_variation: float


class StyleTrainer:
    """Trains one network on content images ``(N, H, W, 3)`` and one style image ``(S, S, 3)``.

    `run` yields events; `state_dict` and `load_state_dict` interrupt and continue it exactly. The order of the content
    images depends on the seed and never on the norm.
    """

    def __init__(
        self,
        network: nn.Module,
        features: FeatureNetwork,
        style: Pixels,
        content: DeviceImages,
        config: StyleTrainConfig,
        seed: int,
        device: DeviceName,
        precision: Precision,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._started = clock()
        self._clock = clock
        self._memory = MemoryMeter(device)
        if device == "cpu":
            keep_freed_memory()
        place = content.labels.device
        self.network = network.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features = features.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._content = content
        self._config = config
        self._device: DeviceName = device
        self._precision: Precision = precision
        self._engine = resolve_engine(config.engine, device)
        self.fallback_reason: str | None = None
        """Why the steps run eagerly although a graph was asked for."""
        self._aware = modules_with_hooks(network)
        train = TrainConfig(optimizer="adam", learning_rate=config.learning_rate)
        self._optimizer = build_optimizer(network, train, capturable=self._engine == "graph")
        image = normalize(torch.from_numpy(style).to(place).permute(2, 0, 1)[None])
        with torch.no_grad():
            self._style_grams = [gram_matrix(maps) for maps in self._features(image).style]
        batches = itertools.islice(batch_indices(len(content), config.batch_size, seed), config.steps)
        self._batches = torch.stack(list(batches)).to(place)  # (steps, batch_size)
        self._losses = torch.zeros(config.steps, len(StepLosses._fields), device=place)
        self._step = torch.zeros((), dtype=torch.int64, device=place)
        self._graph: torch.cuda.CUDAGraph | None = None
        # Where training stands on the host's side.
        self._num_done = 0
        self._seconds = 0.0
        self._startup_seconds = 0.0
        self._peak_memory_mib: float | None = None

    # --- the step: only device tensors, which it advances itself, so that it runs eagerly or replays as a graph ------

    def _run(self) -> None:
        config = self._config
        progress = self._step / config.steps
        for layer in self._aware:
            layer.before_step(progress)
        indices = self._batches.index_select(0, self._step.view(1)).squeeze(0)  # [...] would ask the host
        images = normalize(self._content.batch(indices)[0])
        with autocast(self._device, self._precision):
            with torch.no_grad():
                target = self._features.content(images)
            output = self.network(images)
            seen = self._features(output)
        content = content_loss(seen.content, target)
        style = style_loss(seen.style, self._style_grams)
        variation = total_variation(output)
        total = (
            config.content_weight * content + config.style_weight * style + config.total_variation_weight * variation
        )
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._optimizer.step()
        with torch.no_grad():
            for layer in self._aware:
                layer.after_step()
            losses = torch.stack((total, content, style, variation)).detach()  # as `StepLosses`
            self._losses.index_copy_(0, self._step.view(1), losses[None])
            self._step += 1

    # --- the host's side ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """On CUDA, compile kernels and capture the step, leaving all as it was; elsewhere there is nothing to do.

        Where a capture fails the steps run eagerly and `fallback_reason` says why.
        """
        self.network.train()
        is_done = self._num_done == self._config.steps
        if self._device == "cuda" and not is_done:
            images = normalize(self._content.images[: self._config.batch_size])
            with autocast(self._device, self._precision):
                compile_all(rehearse_on_few(self.network, images).kernel_jobs((len(images),)))
        if self._engine == "graph" and not is_done:
            snapshot = Snapshot(self.network, self._optimizer)
            losses = self._losses.clone()
            graphs, self.fallback_reason = warm_up_and_capture([self._run], self._optimizer, rewind=self._step.zero_)
            self._graph = graphs[0] if graphs else None
            snapshot.restore()
            self._losses.copy_(losses)
        self._step.fill_(self._num_done)
        synchronize(self._device)

    def run(self) -> Iterator[StepsDone]:
        """Train to the end, yielding the losses of some steps at a time.

        Raises:
            DivergedError: a loss is not finite; the steps up to it were yielded.
        """
        self.prepare()
        self._startup_seconds = self._clock() - self._started
        step = self._run if self._graph is None else self._graph.replay
        num_steps = self._config.steps
        while self._num_done < num_steps:
            began = self._clock()
            first = stop = self._num_done
            while stop < num_steps:
                step()
                stop += 1
                if stop % _STEPS_BETWEEN_REPORTS == 0 or self._clock() - began > _SECONDS_BETWEEN_REPORTS:
                    break
            rows = [StepLosses(*row) for row in self._losses[first:stop].tolist()]  # waits for the device
            seconds = self._clock() - began
            self._seconds += seconds
            self._num_done = stop
            broken = next((index for index, row in enumerate(rows) if not math.isfinite(row.total)), None)
            yield StepsDone(
                epoch=1,
                first_step=first,
                losses=tuple(rows if broken is None else rows[: broken + 1]),
                steps_per_epoch=num_steps,
                train_accuracy=None,
                images_per_second=len(rows) * self._config.batch_size / seconds,
            )
            if broken is not None:
                raise DivergedError(f"loss is {rows[broken].total} at step {first + broken} of {num_steps}")
        self._peak_memory_mib = self._memory.peak_mib()

    @property
    def losses(self) -> tuple[StepLosses, ...]:
        """The losses of all steps done; waits for the device."""
        return tuple(StepLosses(*row) for row in self._losses[: self._num_done].tolist())

    def how_steps_run(self) -> dict[str, Any]:
        """Return what only a step shows, for `environment.json`: whether norms run fused, and the engine asked for."""
        facts = {"norm_path": describe_paths(self.network)}
        if self.fallback_reason:
            facts |= {"engine": "eager", "engine_fallback": self.fallback_reason}
        return facts

    def summarize(self, changes: dict[float, float]) -> StyleSummary:
        """Return the run's numbers after `run`."""
        config = self._config
        last = StepLosses(*self._losses[-max(1, config.steps // 10) :].mean(dim=0).tolist())
        return StyleSummary(
            num_steps=config.steps,
            num_parameters=sum(parameter.numel() for parameter in self.network.parameters()),
            content_loss=last.content,
            style_loss=last.style,
            total_variation=last.total_variation,
            total_loss=last.total,
            train_seconds=self._seconds,
            startup_seconds=self._startup_seconds,
            images_per_second=config.steps * config.batch_size / self._seconds,
            peak_memory_mib=self._peak_memory_mib,
            contrast_change=changes,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on from here: tensors, numbers, lists and dicts only."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": self._losses[: self._num_done].cpu(),
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; call before `run`."""
        self.network.load_state_dict(state["model"])
        load_optimizer_state(self._optimizer, state["optimizer"])
        self._num_done = len(state["losses"])
        self._losses[: self._num_done] = state["losses"].to(self._losses.device)
        self._seconds = state["seconds"]


def batch_indices(num_images: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the images of each batch, int64 ``(batch_size,)``, without end: every image once before any comes again."""
    waiting = torch.empty(0, dtype=torch.int64)
    for epoch in itertools.count():
        waiting = torch.cat((waiting, epoch_order(num_images, seed, epoch)))
        while len(waiting) >= batch_size:
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]
