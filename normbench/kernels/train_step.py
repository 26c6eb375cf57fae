"""The operations around the network in a training step, in place on the device: batch assembly, loss, optimizer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normbench.kernels.launch import launch
from normbench.kernels.tiling import ceil_div, power_of_two

_PIXELS = 256
_LOSS_ROWS = 1024
"""Rows that the loss's one program works on at once, one for each thread; it takes more in turn."""
_UNROLLED_CLASSES = 32
"""Up to so many classes, the loss's loops over them are unrolled; many more would not fit into the registers."""
UPDATE_BLOCK = 1024
"""Elements of one program of an optimizer's update; each parameter's place is a multiple of it."""
_UPDATE_WARPS = 8
_UPDATE_REGISTERS = 40
"""Registers of a thread; six programs then share a multiprocessor, and nothing is spilled."""


class Blocks(NamedTuple):
    """The work of each program of an update: one row for every UPDATE_BLOCK elements of the flat fp32 weights.

    A parameter may have a bf16 copy of its fp32 master weights, which gets the new weights; its gradient then has the
    copy's dtype and layout, else it is float32 and laid out as the parameter itself.
    """

    copies: Tensor
    """int64, ``(blocks,)``: the address of the parameter's bf16 copy, a multiple of 16; 0 is none."""
    places: Tensor
    """int32, ``(blocks, 2)``: the block's first element within its parameter; the parameter's number of elements."""
    settings: Tensor
    """float32, ``(blocks, 2)``: the factor of the learning rate, and the weight decay."""


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
        images_out: ``(B, H, W, C)``, contiguous, of any float dtype.
        labels_out: int64, ``(B,)``.
        batch_size: of a full batch; B may be less in an epoch's last step.
    """
    from normbench.triton_code import train_step_kernels

    _, height, width, channels = stored.shape
    dx, dy, flip = crop_flip if crop_flip is not None else (None, None, None)
    launch(
        train_step_kernels.assemble, (len(images_out), ceil_div(height * width, _PIXELS)),
        stored, labels, order, step_in_epoch, dx, dy, None if flip is None else flip.view(torch.uint8),
        images_out, labels_out, batch_size,
        HEIGHT=height, WIDTH=width, CHANNELS=channels, LANES=power_of_two(channels), BLOCK=_PIXELS, num_warps=4,
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
    from normbench.triton_code import train_step_kernels

    rows, classes = logits.shape
    logits = logits.contiguous()
    gradient = torch.empty_like(logits)
    block_rows = min(power_of_two(batch_size), _LOSS_ROWS)
    launch(
        train_step_kernels.cross_entropy, (1,),
        logits, labels, gradient, losses, num_correct, step_in_epoch, global_step, rows, classes, label_smoothing,
        UNROLLED=classes if classes <= _UNROLLED_CLASSES else None,
        BLOCK_R=block_rows, NUM_BLOCKS=ceil_div(batch_size, block_rows), num_warps=max(block_rows // 32, 1),
    )  # fmt: skip
    return gradient


def update_adam(
    weights: Tensor,
    first: Tensor,
    second: Tensor,
    gradients: Tensor,
    num_shares: Tensor,
    blocks: Blocks,
    learning_rates: Tensor,
    corrections: Tensor,
    num_steps: Tensor,
    slow: Tensor | None,
    decays: Tensor | None,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    decoupled: bool,
) -> None:
    """Make one step of Adam (Kingma & Ba 2014, arXiv 1412.6980), or AdamW (1711.05101) where `decoupled`, in place.

    Args:
        weights: float32, ``(blocks * UPDATE_BLOCK,)``; a parameter begins with a block, zeros follow it.
        first: like `weights`: the mean of the gradients.
        second: like `weights`: the mean of their squares.
        gradients: int64, ``(blocks,)``: the address of the parameter's gradient, a multiple of 16; 0 stands for zeros.
        num_shares: int32, ``(blocks,)``: where it is not 0, so many float32 shares of the gradient stand at its
            address, one after the other, laid out as the parameter; their sum is rounded to the copy's dtype.
        blocks: the parameters' places.
        learning_rates: float32, ``(steps,)``.
        corrections: float32, ``(steps, 2)``: ``1 - beta1^t`` and ``sqrt(1 - beta2^t)`` of step t.
        num_steps: int64 scalar on the device: t.
        slow: like `weights`: slow weights, which follow the weights and replace them after some steps; or None.
        decays: float32, ``(steps,)``: the share of `slow` that then stays, and -1 for the steps between; or None.
        beta1: how much of `first` stays.
        beta2: how much of `second` stays.
        eps: added to the root of `second`.
        decoupled: weights decay apart from the gradient.
    """
    from normbench.triton_code import train_step_kernels

    launch(
        train_step_kernels.update_adam, (len(gradients),),
        weights, first, second, gradients, num_shares, *blocks, learning_rates, corrections, num_steps, slow, decays,
        BETA1=beta1, BETA2=beta2, EPS=eps, DECOUPLED=decoupled,
        BLOCK=UPDATE_BLOCK, num_warps=_UPDATE_WARPS, maxnreg=_UPDATE_REGISTERS,
    )  # fmt: skip


def update_sgd(
    weights: Tensor,
    momenta: Tensor,
    gradients: Tensor,
    num_shares: Tensor,
    blocks: Blocks,
    learning_rates: Tensor,
    num_steps: Tensor,
    slow: Tensor | None,
    decays: Tensor | None,
    *,
    momentum: float,
) -> None:
    """Make one step of SGD with Nesterov's momentum in place; see `update_adam` for the tensors."""
    from normbench.triton_code import train_step_kernels

    launch(
        train_step_kernels.update_sgd, (len(gradients),),
        weights, momenta, gradients, num_shares, *blocks, learning_rates, num_steps, slow, decays, momentum,
        BLOCK=UPDATE_BLOCK, num_warps=_UPDATE_WARPS, maxnreg=_UPDATE_REGISTERS,
    )  # fmt: skip
