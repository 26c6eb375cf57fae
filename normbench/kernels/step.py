"""Launches the kernels around the network: batch assembly, loss, optimizer. Imported only where Triton is."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.kernels import step_kernels
from normbench.kernels.plan import ceil_div, power_of_two

_PIXELS = 256
_LOSS_ELEMENTS = 16384
"""Logits that the loss's one program holds at once; a loop over smaller tiles waits for memory in every turn."""
_UPDATE_BLOCK = 1024


def assemble(
    stored: Tensor,
    labels: Tensor,
    order: Tensor,
    step_in_epoch: Tensor,
    crop_flip: tuple[Tensor, Tensor, Tensor] | None,
    images_out: Tensor,
    labels_out: Tensor,
    batch_size: int,
) -> None:
    """Write the batch of a step: gathered, cropped and flipped, mapped from 0..255 to -1..1.

    Args:
        stored: uint8, ``(N, H, W, C)``.
        labels: int64, ``(N,)``.
        order: int64, ``(N,)``: where each image of the epoch is stored.
        step_in_epoch: int64 scalar on the device.
        crop_flip: shifts to the right and down, int64, and whether to mirror, bool: ``(N,)`` each.
        images_out: ``(B, H, W, C_out)``, contiguous, of any float dtype; channels from C on become zero.
        labels_out: int64, ``(B,)``.
        batch_size: of a full batch; B may be less in an epoch's last step.
    """
    _, height, width, channels = stored.shape
    num_images, *_, channels_out = images_out.shape
    dx, dy, flip = crop_flip if crop_flip is not None else (None, None, None)
    step_kernels.assemble[(num_images, ceil_div(height * width, _PIXELS))](
        stored, labels, order, step_in_epoch, dx, dy, None if flip is None else flip.view(torch.uint8),
        images_out, labels_out, batch_size,
        HEIGHT=height, WIDTH=width, CHANNELS=channels, CHANNELS_OUT=channels_out,
        LANES=power_of_two(channels_out), BLOCK=_PIXELS, num_warps=4,
    )  # fmt: skip


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float,
    losses: Tensor,
    num_correct: Tensor,
    step_in_epoch: Tensor,
    global_step: Tensor,
    batch_size: int,
) -> Tensor:
    """Return the gradient of the mean cross-entropy of `logits`, ``(B, K)``, computed in float32.

    Also writes the loss into `losses` at `step_in_epoch`, adds to `num_correct`, and advances both counters. B may be
    less than `batch_size` in an epoch's last step, which then takes the same compiled kernel.
    """
    rows, classes = logits.shape
    logits = logits.contiguous()
    gradient = torch.empty_like(logits)
    lanes = power_of_two(classes)
    block_rows = min(power_of_two(batch_size), max(1, _LOSS_ELEMENTS // lanes))
    step_kernels.cross_entropy[(1,)](
        logits, labels, gradient, losses, num_correct, step_in_epoch, global_step, rows, classes, label_smoothing,
        BLOCK_R=block_rows, BLOCK_K=lanes, num_warps=min(max(block_rows * lanes // 512, 1), 16),
    )  # fmt: skip
    return gradient


def update_adam(
    weights: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    working: Tensor | None,
    learning_rates: Tensor,
    corrections: Tensor,
    num_steps: Tensor,
    *,
    rate_factor: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    decoupled: bool,
) -> None:
    """Make one step of Adam (Kingma & Ba 2014, arXiv 1412.6980), or AdamW (1711.05101) where `decoupled`, in place.

    All but the last four tensors are flat, ``(count,)``, float32 but `working`, which gets a copy of the new weights.
    `learning_rates`, ``(steps,)``, and `corrections`, ``(steps, 2)``, hold for step t the rate, ``1 - beta1^t`` and
    ``sqrt(1 - beta2^t)``; `num_steps` is t on the device.
    """
    count = weights.numel()
    step_kernels.update_adam[(ceil_div(count, _UPDATE_BLOCK),)](
        weights, gradients, first, second, working, learning_rates, corrections, num_steps,
        rate_factor, weight_decay, count,
        BETA1=beta1, BETA2=beta2, EPS=eps, DECOUPLED=decoupled, BLOCK=_UPDATE_BLOCK, num_warps=8,
    )  # fmt: skip


def update_sgd(
    weights: Tensor,
    gradients: Tensor,
    momenta: Tensor,
    working: Tensor | None,
    learning_rates: Tensor,
    num_steps: Tensor,
    *,
    rate_factor: float,
    weight_decay: float,
    momentum: float,
) -> None:
    """Make one step of SGD with Nesterov's momentum in place; see `update_adam` for the tensors."""
    count = weights.numel()
    step_kernels.update_sgd[(ceil_div(count, _UPDATE_BLOCK),)](
        weights, gradients, momenta, working, learning_rates, num_steps,
        rate_factor, weight_decay, momentum, count, BLOCK=_UPDATE_BLOCK, num_warps=8,
    )  # fmt: skip
