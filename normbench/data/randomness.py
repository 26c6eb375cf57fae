"""One random generator for each purpose, from one seed.

Drawing more of one thing (augmentation, say) therefore changes no other (the order of the images), and a resumed run
draws for an epoch what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return a seed of 63 bits: the head of the SHA-256 of ``"seed/purpose/epoch"``."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for one purpose (``"initialization"``, ``"order"``, ...) in one epoch."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))
