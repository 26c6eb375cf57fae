"""One training step on data that lives on the device: eager, captured as a CUDA graph, or compiled.

The step reads its batch, learning rate and progress from device tensors that it advances itself, so that the same code
runs eagerly or replays as a graph, and the host never waits for the device between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from normbench.data.augment import CropFlip, apply_crop_flip
from normbench.data.batches import DeviceImages, normalize
from normbench.engine.device import DeviceName, Engine, Precision, activation_dtype, autocast, synchronize
from normbench.engine.optimizer import Snapshot
from normbench.norms.fused import compile_ahead
from normbench.norms.training import training_aware_modules

_WARMUP_STEPS = 3
"""Enough for the allocator, cuDNN's choice of algorithms and the compiler to settle before a capture."""


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know beside model, optimizer and images."""

    batch_size: int
    learning_rates: torch.Tensor
    """Of every step of the whole training, ``(total steps,)``."""
    label_smoothing: float
    augment: bool
    device: DeviceName
    precision: Precision
    engine: Engine


class TrainStep:
    """Trains one batch a call. Call `start_epoch` before an epoch's first step, `prepare` once before all."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, images: DeviceImages, settings: StepSettings
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.images = images
        self.settings = settings
        self.num_images = len(images)
        self.steps_per_epoch = -(-self.num_images // settings.batch_size)
        self.fallback_reason: str | None = None
        """Why the steps run eagerly although a graph was asked for."""
        device = images.labels.device
        self._order = torch.arange(self.num_images, device=device)
        no_shift = torch.zeros_like(self._order)
        self._crop_flip = CropFlip(no_shift, no_shift.clone(), no_shift.bool()) if settings.augment else None
        self._offsets = torch.arange(settings.batch_size, device=device)
        self._learning_rates = settings.learning_rates.to(device)
        self._total_steps = len(settings.learning_rates)
        self._step_in_epoch = torch.zeros((), dtype=torch.int64, device=device)
        self._global_step = torch.zeros((), dtype=torch.int64, device=device)
        self._losses = torch.zeros(self.steps_per_epoch, device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._aware = training_aware_modules(model)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = model
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    # --- the step itself: only device tensors from here to the end of _run -----------------------------------------

    def _run(self, batch_size: int) -> None:
        settings = self.settings
        progress = self._global_step / self._total_steps
        for layer in self._aware:
            layer.before_step(progress)
        rate = self._learning_rates.index_select(0, self._global_step.view(1)).squeeze()  # [...] would ask the host
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate * group["learning_rate_factor"])

        positions = self._step_in_epoch * settings.batch_size + self._offsets[:batch_size]
        indices = self._order[positions]
        images, labels = self.images.batch(indices)  # (B, 3, 32, 32) uint8, (B,)
        if self._crop_flip is not None:
            dx, dy, flip = (drawn[indices] for drawn in self._crop_flip)
            images = apply_crop_flip(images, dy, dx, flip)

        self.optimizer.zero_grad(set_to_none=True)
        # The short last batch is not worth a compilation of its own.
        forward = self._forward if batch_size == settings.batch_size else self.model
        with autocast(settings.device, settings.precision):
            logits = forward(normalize(images))
            loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for layer in self._aware:
                layer.after_step()
            self._losses.index_copy_(0, self._step_in_epoch.view(1), loss.detach().float().view(1))
            self._num_correct += (logits.argmax(dim=1) == labels).sum()
            self._step_in_epoch += 1
            self._global_step += 1

    # --- the host's side ---------------------------------------------------------------------------------------------

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
        self._order.copy_(order, non_blocking=True)
        if self._crop_flip is not None and crop_flip is not None:
            for static, drawn in zip(self._crop_flip, crop_flip, strict=True):
                static.copy_(drawn, non_blocking=True)
        self._step_in_epoch.fill_(step_in_epoch)
        self._global_step.fill_(global_step)
        self._num_correct.fill_(num_correct)

    def __call__(self, step_in_epoch: int) -> None:
        """Train on the batch of `step_in_epoch`; steps of an epoch come in order."""
        batch_size = self.batch_size_of(step_in_epoch)
        graph = self._graphs.get(batch_size)
        if graph is None:
            self._run(batch_size)
        else:
            graph.replay()

    def losses(self, first: int, stop: int) -> list[float]:
        """Return the losses of the epoch's steps ``first`` to ``stop - 1``; waits for the device."""
        losses: list[float] = self._losses[first:stop].tolist()
        return losses

    def num_correct(self) -> int:
        """Return how many training images of this epoch were classified correctly; waits for the device."""
        return int(self._num_correct)

    def prepare(self) -> None:
        """Warm up, compile and capture, leaving model and optimizer as they were.

        A plain CPU step needs none of it. Where a capture fails the steps run eagerly and `fallback_reason` says why.
        """
        settings = self.settings
        if settings.device == "cpu" and settings.engine == "eager":
            return
        snapshot = Snapshot(self.model, self.optimizer)
        if settings.engine == "compile":
            self._forward = torch.compile(self.model)
        if settings.device == "cuda" and settings.engine != "compile":
            images = normalize(self.images.images[: settings.batch_size])
            compile_ahead(self.model, images, activation_dtype(settings.precision))
        sizes = sorted({self.batch_size_of(0), self.batch_size_of(self.steps_per_epoch - 1)}, reverse=True)
        use_graph = settings.device == "cuda" and settings.engine in ("graph", "compile")
        if use_graph:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._warm_up(sizes)
            torch.cuda.current_stream().wait_stream(stream)
            self._capture(sizes, stream)
        else:
            self._warm_up(sizes)
        synchronize(settings.device)
        snapshot.restore()
        synchronize(settings.device)

    def _warm_up(self, sizes: list[int]) -> None:
        for size in sizes:
            for _ in range(_WARMUP_STEPS):
                self._rewind()
                self._run(size)
        self._rewind()

    def _rewind(self) -> None:
        self._step_in_epoch.zero_()
        self._global_step.zero_()

    def _capture(self, sizes: list[int], stream: torch.cuda.Stream) -> None:
        # On the stream of the warm-up: autograd's leaf nodes stay on the stream that first used them.
        pool = None
        try:
            for size in sizes:
                graph = torch.cuda.CUDAGraph()
                self.optimizer.zero_grad(set_to_none=True)
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    self._run(size)
                pool = graph.pool()
                self._graphs[size] = graph
        except RuntimeError as error:
            torch.cuda.synchronize()
            self._graphs.clear()
            self.fallback_reason = f"not capturable: {str(error).splitlines()[0]}"
