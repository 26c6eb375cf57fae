"""What the tests of style transfer share: a run whose network looks at pictures, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from run_events import SUMMARY
from style_cases import photograph

from normbench.models import build_model
from normbench.norms import make_norm


@pytest.fixture(scope="session")
def make_features_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the folder of a resnet9 run as ``--keep-checkpoint`` leaves it, with weights nobody trained."""

    def make(norm: str = "bn", model: str = "resnet9", *, checkpoint: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("runs") / f"{norm}-{model}"
        folder.mkdir()
        config = {"norm": norm, "model": model, "dataset": "synthetic", "train": {}, "seed": 0, "device": "cpu"}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "status.json").write_text(
            '{"state": "completed", "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}'
        )
        (folder / "summary.json").write_text(SUMMARY.model_dump_json())
        if checkpoint:
            torch.manual_seed(0)
            state = build_model(model, norm=make_norm(norm)).state_dict()
            torch.save({"model": state, "optimizer": {}, "rows": []}, folder / "checkpoint.pt")
        return folder

    return make


@pytest.fixture(scope="session")
def features_run(make_features_run: Callable[..., Path]) -> Path:
    return make_features_run()


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(photograph()).save(path)
    return path
