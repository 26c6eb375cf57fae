"""One network's loss and accuracy on split after split: on CUDA its forward pass is captured once, and replayed.

Corrupted images and batches of few take thousands of forward passes, which a host asks for more slowly than a GPU
computes them.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import DeviceName, Precision, autocast
from normbench.engine.evaluate import EVALUATION_BATCH_SIZE, PendingEvaluation
from normbench.engine.step.prepare import warm_up_and_capture
from normbench.kernels.support import switched_off


class Repeated:
    """Evaluates a copy of `model`, in the mode that `model` is in, on splits whose images are like `images`.

    Every split begins with the buffers that `model` has now. In training mode all is in torch's own operations
    (`normbench.evaluation.statistics`). Where a capture fails, batches are asked for one by one.

    Raises:
        ValueError: a norm cannot do with batches of this size.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        images: DeviceImages,
        device: DeviceName,
        precision: Precision,
        batch_size: int = EVALUATION_BATCH_SIZE,
    ) -> None:
        self._model = copy.deepcopy(model)
        self._device, self._precision = device, precision
        self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        self._loss_sum = torch.zeros((), device=images.labels.device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=images.labels.device)
        self._batch_size = batch_size
        self._graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda" and len(images) >= batch_size:
            self._capture(images.first(batch_size))

    @property
    def is_captured(self) -> bool:
        """Whether whole batches are replayed."""
        return self._graph is not None

    @torch.no_grad()
    def launch(self, images: DeviceImages) -> PendingEvaluation:
        """Start to evaluate on `images`, without waiting for a GPU."""
        self._rewind()
        for indices in torch.arange(len(images), device=images.labels.device).split(self._batch_size):
            batch = images.batch(indices)
            if self._graph is None or len(indices) < self._batch_size:  # the last batch
                self._count(*batch)
            else:
                for static, values in zip(self._batch, batch, strict=True):
                    static.copy_(values)
                self._graph.replay()
        return PendingEvaluation(self._loss_sum.clone(), self._num_correct.clone(), len(images))

    def _count(self, images: Tensor, labels: Tensor) -> None:
        """Add the losses and hits of a batch."""
        kernels = switched_off() if self._model.training else nullcontext()
        with kernels, autocast(self._device, self._precision):
            logits = self._model(normalize(images))
        self._loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
        self._num_correct += (logits.argmax(dim=1) == labels).sum()

    def _capture(self, images: DeviceImages) -> None:
        self._batch = images.images.clone(), images.labels.clone()
        graphs, _ = warm_up_and_capture([lambda: self._count(*self._batch)], rewind=self._rewind)
        self._graph = graphs[0] if graphs else None

    def _rewind(self) -> None:
        for buffer, value in self._buffers:
            buffer.copy_(value)
        self._loss_sum.zero_()
        self._num_correct.zero_()
