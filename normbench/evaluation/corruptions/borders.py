"""What stands beyond an image's border, as the libraries with which CIFAR-10-C was made have it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Border = Literal["mirror", "reflect", "repeat"]
"""`mirror` does not repeat the pixel at the border (``c b | a b c``), `reflect` does (``b a | a b c``), and `repeat`
goes on with it (``a a | a b c``)."""


def border_index(size: int, radius: int, border: Border, device: torch.device) -> Tensor:
    """Return which pixel stands at each place from ``-radius`` to ``size + radius - 1``, ``(size + 2 radius,)``."""
    places = torch.arange(-radius, size + radius, device=device)
    if border == "repeat":
        return places.clamp(0, size - 1)
    return fold(places, size, border).long()


def fold(places: Tensor, size: int, border: Border) -> Tensor:
    """Fold coordinates of any size back into an image of `size` pixels, ``mirror`` or ``reflect``."""
    if border == "mirror":
        places = places.remainder(2 * size - 2)
        return torch.where(places > size - 1, 2 * size - 2 - places, places)
    places = places.remainder(2 * size)
    return torch.where(places > size - 0.5, 2 * size - 1 - places, places).clamp(0, size - 1)
