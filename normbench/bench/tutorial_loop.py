"""The tutorial's own training loop, for comparison: a data loader over PIL images, plain layers, float32, `.item()`.

Nothing here is fast on purpose; it is what most tutorials do, and what `normbench` is compared with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from normbench.layers.conv2d import Conv2d
from normbench.layers.conv_stack import ConvStack
from normbench.layers.norm_act import FusedNormAct
from normbench.layers.pooled_linear import PooledLinear
from normbench.norms.group_norm import GroupNorm


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """A data set that turns each array into a PIL image and then into a tensor in -1..1, one at a time.

    Args:
        images: uint8, ``(N, H, W, C)``.
        labels: integers, ``(N,)``.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images = images
        self._labels = labels.tolist()
        self._transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return the image ``(C, H, W)`` and its label."""
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


class TutorialLoop:
    """A loop that trains `model`, made plain by `with_plain_layers`, by Adam; its loader has no workers."""

    def __init__(
        self, model: nn.Module, images: Dataset[tuple[torch.Tensor, int]], batch_size: int, device: str, *,
        learning_rate: float = 1e-3, seed: int = 0,
    ) -> None:  # fmt: skip
        self.model = model.to(device).train()
        self._device = device
        self._batch_size = batch_size
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        order = torch.Generator().manual_seed(seed)
        self._loader = DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=0, generator=order)
        self._full_batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
        self.losses: list[float] = []

    def run(self, steps: int) -> None:
        """Train `steps` whole batches; those of an epoch come in order, its short last one is left out."""
        for _ in range(steps):
            batch = next(self._full_batches, None)
            if batch is None or len(batch[1]) < self._batch_size:
                self._full_batches = iter(self._loader)
                batch = next(self._full_batches)
            self._step(*batch)

    def run_epoch(self) -> None:
        """Train on every image once."""
        for images, labels in self._loader:
            self._step(images, labels)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        images, labels = images.to(self._device), labels.to(self._device)
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self._optimizer.step()
        self.losses.append(loss.item())


def with_plain_layers(model: nn.Module) -> nn.Module:
    """Replace in `model` each convolution, norm and activation by the layers of ``torch.nn``, in place; return it.

    A norm that ``torch.nn`` does not have stays NormBench's own layer, run operation by operation.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, FusedNormAct):
            plain = _plain_norm(child[0])
            setattr(model, name, nn.Sequential(plain, nn.ReLU()) if len(child) == 2 else plain)
        elif type(child) is ConvStack:
            setattr(model, name, with_plain_layers(nn.Sequential(OrderedDict(child.named_children()))))
        elif type(child) is Conv2d:
            setattr(model, name, _plain_conv(child))
        elif isinstance(child, PooledLinear):
            setattr(model, name, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), _plain_linear(child)))
        else:
            with_plain_layers(child)
    return model


def _plain_conv(layer: nn.Conv2d) -> nn.Conv2d:
    plain: nn.Conv2d = nn.utils.skip_init(  # draws no random numbers
        nn.Conv2d, layer.in_channels, layer.out_channels, layer.kernel_size,
        stride=layer.stride, padding=layer.padding, bias=layer.bias is not None,
    )  # fmt: skip
    plain.load_state_dict(layer.state_dict())
    return plain


def _plain_linear(layer: nn.Linear) -> nn.Linear:
    plain: nn.Linear = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, layer.bias is not None)
    plain.load_state_dict(layer.state_dict())
    return plain


def _plain_norm(layer: nn.Module) -> nn.Module:
    if type(layer) is not GroupNorm or not isinstance(layer, GroupNorm):
        return layer
    affine = layer.weight is not None
    plain: nn.Module
    if layer.name == "in":
        plain = nn.InstanceNorm2d(layer.num_channels, eps=layer.eps, affine=affine)
    else:
        plain = nn.GroupNorm(layer.num_groups, layer.num_channels, eps=layer.eps, affine=affine)
    plain.load_state_dict(layer.state_dict())
    return plain
