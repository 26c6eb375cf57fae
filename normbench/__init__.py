"""NormBench compares normalization layers on CIFAR-10.

    from normbench import NormResNet, make_norm

    net = NormResNet(norm=make_norm("gn", groups=4))   # (N, 3, 32, 32) -> (N, 10)

The names below load on first use, so that `import normbench` itself needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normbench.version import __version__

if TYPE_CHECKING:
    from normbench.models.normresnet import NormResNet
    from normbench.norms import NORMS, NormFactory, make_norm
    from normbench.report.load import load_runs

_EXPORTS = {
    "NORMS": "normbench.norms",
    "NormFactory": "normbench.norms",
    "NormResNet": "normbench.models.normresnet",
    "load_runs": "normbench.report.load",
    "make_norm": "normbench.norms",
}

__all__ = ["NORMS", "NormFactory", "NormResNet", "__version__", "load_runs", "make_norm"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'normbench' has no attribute {name!r}")
