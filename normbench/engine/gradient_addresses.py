"""Where autograd left the gradients of a step: a table on the device, from which a kernel reads all of them at once.

It is uploaded whenever the addresses have changed. A captured graph makes its gradients at the same addresses in every
replay, and has a table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normbench.engine.device import is_capturing

_ALIGNMENT = 16
"""Bytes of the widest load."""


class GradientAddresses:
    """The addresses of the gradients that the next launch reads, one row for each of its programs.

    Args:
        num_rows: how many programs read each gradient; their rows are consecutive.
        device: of the table.
    """

    def __init__(self, num_rows: Sequence[int], device: torch.device) -> None:
        self._num_rows = num_rows
        self.tensor = torch.zeros(sum(num_rows), dtype=torch.int64, device=device)
        """int64, ``(rows,)``; 0 stands for a gradient that there is none of."""
        self.num_shares = torch.zeros(sum(num_rows), dtype=torch.int32, device=device)
        """int32, ``(rows,)``: how many float32 shares stand at the address, one after the other; 0 is a gradient."""
        self._uploaded: list[tuple[int, int]] | None = None
        self._captured: list[tuple[int, int]] = []
        self._tensors_of_graphs: list[tuple[Tensor, Tensor]] = []

    def locate(self, gradients: Sequence[Tensor | None], shares: Sequence[Tensor | None] | None = None) -> None:
        """Make the `gradients` those that the next launch reads, or, where there are some, their `shares`.

        They must be kept until the launch is made.
        """
        shares = shares or [None] * len(gradients)
        located = [_located(gradient, of_it) for gradient, of_it in zip(gradients, shares, strict=True)]
        if is_capturing(self.tensor.device):
            self._captured = located  # an upload would become part of the graph
        elif located != self._uploaded:
            self._upload(located)
            self._uploaded = located

    def finish_capture(self) -> None:
        """Give the graph whose capture has just ended, with one launch in it, the addresses of its gradients."""
        self._upload(self._captured)
        self._tensors_of_graphs.append((self.tensor, self.num_shares))
        # Made outside of captures: in a graph's pool it could share its memory with what the graph has freed before.
        self.tensor, self.num_shares = torch.zeros_like(self.tensor), torch.zeros_like(self.num_shares)
        self._uploaded = None

    def _upload(self, located: list[tuple[int, int]]) -> None:
        counts = torch.tensor(self._num_rows)
        for tensor, values in zip((self.tensor, self.num_shares), zip(*located, strict=True), strict=True):
            tensor.copy_(torch.tensor(values).repeat_interleave(counts))


def _located(gradient: Tensor | None, shares: Tensor | None) -> tuple[int, int]:
    """Return an address and the number of shares there; 0 and 0 where there is no gradient."""
    if shares is not None:
        return shares.data_ptr(), len(shares)
    return (0 if gradient is None else gradient.data_ptr()), 0


def readable(leaf: Tensor) -> Tensor | None:
    """Return the gradient of `leaf`, laid out as `leaf` and at a multiple of 16 bytes: itself, or a copy."""
    gradient = leaf.grad
    if gradient is None:
        return None
    strides = zip(leaf.shape, leaf.stride(), gradient.stride(), strict=True)
    if all(size == 1 or ours == theirs for size, ours, theirs in strides) and gradient.data_ptr() % _ALIGNMENT == 0:
        return gradient
    return torch.empty_like(leaf).copy_(gradient)
