"""NormBench compares normalization layers on CIFAR-10.

    import normbench

    result = normbench.compare("tutorial", seeds=3)      # trains, or continues; result.table(), .rows(), .figures()
    rows = normbench.load_runs("runs/tutorial")          # a row for each recorded run
    net = normbench.NormResNet(norm=normbench.make_norm("gn", groups=4))  # (N, 3, 32, 32) -> (N, 10)

The names below load on first use, so that `import normbench` itself needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normbench.version import __version__

if TYPE_CHECKING:
    from normbench.config.schema import ExperimentConfig
    from normbench.experiment.api import compare, train
    from normbench.experiment.comparison import Comparison
    from normbench.models.normresnet import NormResNet
    from normbench.norms import NORMS, NormFactory, make_norm
    from normbench.report.recorded_runs import load_curves, load_runs
    from normbench.worker.trained_model import load_model

_EXPORTS = {
    "NORMS": "normbench.norms",
    "Comparison": "normbench.experiment.comparison",
    "ExperimentConfig": "normbench.config.schema",
    "NormFactory": "normbench.norms",
    "NormResNet": "normbench.models.normresnet",
    "compare": "normbench.experiment.api",
    "load_curves": "normbench.report.recorded_runs",
    "load_model": "normbench.worker.trained_model",
    "load_runs": "normbench.report.recorded_runs",
    "make_norm": "normbench.norms",
    "train": "normbench.experiment.api",
}

__all__ = [
    "NORMS",
    "Comparison",
    "ExperimentConfig",
    "NormFactory",
    "NormResNet",
    "__version__",
    "compare",
    "load_curves",
    "load_model",
    "load_runs",
    "make_norm",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'normbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
