"""A config that takes a second to run, and a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.config.style import StyleRunConfig

TINY: dict[str, Any] = {
    "style": "waves",  # drawn in no time
    "content": "synthetic",
    "num_content": 6,
    "image_size": 16,
    "style_size": 32,
    "train": {"steps": 3, "batch_size": 2},
}


def tiny_run(norm: str = "in", seed: int = 0, **changes: Any) -> StyleRunConfig:
    return StyleRunConfig.model_validate({**TINY, "norm": norm, "seed": seed, "device": "cpu", **changes})


def photograph(height: int = 40, width: int = 60, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colored blobs, with a strong left-right difference."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / random.uniform(4, 9) + y / random.uniform(4, 9) + random.uniform(0, 6)) for _ in range(3)]
    return np.clip(128 + 60 * np.stack(waves, axis=-1) + (x > width / 2)[..., None] * 40, 0, 255).astype(np.uint8)
