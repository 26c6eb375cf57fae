"""Norms with statistics from elsewhere than their running averages: from the batch, or estimated anew.

All in torch's own operations: kernels would have to be compiled for every batch size, which takes seconds each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from normbench.engine.batches import DeviceImages, epoch_order, normalize
from normbench.engine.device import DeviceName, Precision, autocast, full_precision
from normbench.kernels.support import switched_off

REESTIMATION_BATCH_SIZE = 512
_NUM_TRIED = 16


def as_trained(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in training mode, whose buffers may change while `model` stays as it is."""
    return copy.deepcopy(model).train()


@torch.no_grad()
def depends_on_batch_or_mode(model: nn.Module, images: DeviceImages, device: DeviceName) -> bool:
    """Return whether what `model` says of an image is another in training mode, or beside other images.

    Tried on 16 images in float32, without knowing the norm: rounding does not count (1 % of the logits' standard
    deviation; in training mode a batch norm changes logits by many times that). That of bfloat16 would: where batches
    of different sizes go through different algorithms, it is more.
    """
    x = normalize(images.first(_NUM_TRIED).images)
    with switched_off(), full_precision(device):
        together = copy.deepcopy(model).eval()(x).float()
        alone = torch.cat([copy.deepcopy(model).eval()(image).float() for image in x.split(1)])
        training = as_trained(model)(x).float()
    tolerance = 0.01 * float(together.std())
    return any(float((other - together).abs().max()) > tolerance for other in (alone, training))


@torch.no_grad()
def reestimated(
    model: nn.Module, images: DeviceImages, num_batches: int, device: DeviceName, precision: Precision
) -> nn.Module | None:
    """Return a copy of `model` in evaluation mode whose running statistics are means over batches of `images`.

    PreciseBN (Wu & Johnson 2021, arXiv 2105.07576) in its simple form: batch k of 512 images, in training mode, enters
    with the share 1 / k, so that all weigh the same; the variance is the mean of the batches' own. Over as many batches
    as there are, at most `num_batches`; a last smaller one is left out unless it is the only one.

    None where no norm keeps running averages with a momentum.
    """
    estimated = as_trained(model)
    layers = [module for module in estimated.modules() if _has_running_average(module)]
    if not layers or num_batches == 0:
        return None
    for number, indices in enumerate(_batches(len(images), num_batches), 1):
        for layer in layers:
            layer.momentum = 1 / number  # type: ignore[assignment]
        batch, _ = images.batch(indices.to(images.labels.device))
        with switched_off(), autocast(device, precision):
            estimated(normalize(batch))
    return estimated.eval()


def _has_running_average(module: nn.Module) -> bool:
    buffers = (name for name, buffer in module.named_buffers(recurse=False) if buffer is not None)
    return isinstance(getattr(module, "momentum", None), int | float) and any(
        name.startswith("running_") for name in buffers
    )


def _batches(num_images: int, num_batches: int) -> Iterator[torch.Tensor]:
    whole = max(num_images // REESTIMATION_BATCH_SIZE, 1)
    order = epoch_order(num_images, 0, 0)
    yield from order.split(REESTIMATION_BATCH_SIZE)[: min(num_batches, whole)]
