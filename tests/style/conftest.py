"""What the tests of style transfer share: a run whose network looks at pictures, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from features_run import write_features_run
from PIL import Image
from style_cases import photograph


@pytest.fixture(scope="session")
def make_features_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the folder of a resnet9 run as ``--keep-checkpoint`` leaves it, with weights nobody trained."""

    def make(norm: str = "bn", model: str = "resnet9", *, checkpoint: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("runs") / f"{norm}-{model}"
        return write_features_run(folder, norm, model, checkpoint=checkpoint)

    return make


@pytest.fixture(scope="session")
def features_run(make_features_run: Callable[..., Path]) -> Path:
    return make_features_run()


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(photograph()).save(path)
    return path
