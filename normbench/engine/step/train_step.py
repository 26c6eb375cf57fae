"""Training steps on data that lives on the device: eager, captured as a CUDA graph, or compiled.

A step reads its batch, learning rate and progress from device tensors that it advances itself (`StepState`), so that
the same code runs eagerly or replays as a graph, and the host never waits for the device between steps.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from normbench.engine.augment import CropFlip
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import autocast, synchronize
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.optimizer import Optimizer, Snapshot
from normbench.engine.precompile import rehearse, rehearse_on_few
from normbench.engine.step.capture import warm_up, warm_up_and_capture
from normbench.engine.step.eager import PlainStep
from normbench.engine.step.fused import FusedStep
from normbench.engine.step.state import StepSettings, StepState
from normbench.kernels.launch import Jobs, compile_all
from normbench.kernels.support import unsupported_device_reason


class TrainStep:
    """Trains one batch a call. Call `start_epoch` before an epoch's first step, `prepare` once before all."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        images: DeviceImages,
        settings: StepSettings,
        state: StepState,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.images = images
        self.settings = settings
        self.num_images = len(images)
        self.steps_per_epoch = len(state.losses)
        self.fallback_reason: str | None = None
        """Why the steps run eagerly although a graph was asked for."""
        self._state = state
        self._step: PlainStep | FusedStep
        if isinstance(optimizer, FlatOptimizer):
            self._step = FusedStep(model, optimizer, images, settings, state)
        else:
            self._step = PlainStep(model, optimizer, images, settings, state)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def batch_size_of(self, step_in_epoch: int) -> int:
        """Return the number of images of a step; the last of an epoch may be smaller."""
        return min(self.settings.batch_size, self.num_images - step_in_epoch * self.settings.batch_size)

    def start_epoch(
        self,
        order: torch.Tensor,
        crop_flip: CropFlip | None,
        *,
        global_step: int,
        step_in_epoch: int = 0,
        num_correct: int = 0,
    ) -> None:
        """Take the epoch's image order ``(num_images,)`` and augmentation, and set the counters."""
        self._state.start_epoch(
            order, crop_flip, global_step=global_step, step_in_epoch=step_in_epoch, num_correct=num_correct
        )

    def __call__(self, step_in_epoch: int) -> None:
        """Train on the batch of `step_in_epoch`; steps of an epoch come in order."""
        batch_size = self.batch_size_of(step_in_epoch)
        graph = self._graphs.get(batch_size)
        if graph is None:
            self._step.run(batch_size)
        else:
            graph.replay()

    def losses(self, first: int, stop: int) -> list[float]:
        """Return the losses of the epoch's steps ``first`` to ``stop - 1``; waits for the device."""
        losses: list[float] = self._state.losses[first:stop].tolist()
        return losses

    def num_correct(self) -> int:
        """Return how many training images of this epoch were classified correctly; waits for the device."""
        return int(self._state.num_correct)

    def kernel_jobs(self) -> Jobs:
        """Return what launches the kernels of the steps, for `launch.compile_all`; nothing where none of ours run."""
        if self.settings.engine == "compile" or unsupported_device_reason(self.images.labels.device) is not None:
            return {}
        sizes = self._batch_sizes()
        try:
            with self._autocast():
                rehearsal = rehearse_on_few(self.model, self._first_images(sizes[0]))
                jobs = rehearsal.kernel_jobs(sizes)
        except torch.OutOfMemoryError:
            return {}  # torch's own operations take more than our kernels, for which there may be room
        if isinstance(self._step, FusedStep):
            jobs |= self._step.kernel_jobs(sizes, rehearsal.output)
        return jobs

    def rehearse(self) -> None:
        """Have torch load what steps like these need, and cuDNN choose its algorithms, without our kernels."""
        with self._autocast():
            for size in self._batch_sizes():
                rehearse(self.model, self._first_images(size), backward=True)

    def prepare(self) -> None:
        """Warm up, compile and capture, leaving model and optimizer as they were.

        A plain CPU step needs none of it. Where a capture fails the steps run eagerly and `fallback_reason` says why.
        """
        settings = self.settings
        if settings.device == "cpu" and settings.engine == "eager":
            return
        snapshot = Snapshot(self.model, self.optimizer)
        compile_all(self.kernel_jobs())
        sizes = self._batch_sizes()
        self._step.refresh()
        steps = [partial(self._step.run, size) for size in sizes]
        if settings.device == "cuda" and settings.engine in ("graph", "compile"):
            graphs, self.fallback_reason = warm_up_and_capture(
                steps, self.optimizer, rewind=self._state.rewind, finish=self._step.finish_capture
            )
            self._graphs = dict(zip(sizes, graphs, strict=False))  # none where a step cannot be captured
        else:
            warm_up(steps, self._state.rewind)
        synchronize(settings.device)
        snapshot.restore()
        self._step.refresh()
        synchronize(settings.device)

    def _autocast(self) -> torch.autocast:
        return autocast(self.settings.device, self.settings.precision)

    def _first_images(self, count: int) -> torch.Tensor:
        return normalize(self.images.images[:count])

    def _batch_sizes(self) -> list[int]:
        """Return that of all batches and, if it is another, that of the last."""
        return sorted({self.batch_size_of(0), self.batch_size_of(self.steps_per_epoch - 1)}, reverse=True)
