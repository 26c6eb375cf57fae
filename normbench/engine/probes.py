"""Measurements of a trained network beside its test accuracy."""

from __future__ import annotations

import copy

import torch
from torch import nn

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import DeviceName, Precision, autocast

MAX_IMAGES = 2000
"""Test images of `batch_statistics_accuracy`, because each is a forward pass of its own."""


@torch.no_grad()
def batch_statistics_accuracy(
    model: nn.Module, images: DeviceImages, device: DeviceName, precision: Precision
) -> float:
    """Return the accuracy, a fraction, of single images in training mode: statistics are those of the image alone.

    That is what a network trained at batch size 1 saw in training. Over the first `MAX_IMAGES` images; `model` and its
    running statistics stay as they are.
    """
    model = copy.deepcopy(model).train()
    num_images = min(len(images), MAX_IMAGES)
    num_correct = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    for index in torch.arange(num_images, device=images.labels.device).split(1):
        image, label = images.batch(index)
        with autocast(device, precision):
            num_correct += (model(normalize(image)).argmax(dim=1) == label).sum()
    return int(num_correct) / num_images
