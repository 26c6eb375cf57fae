"""The folder of a run whose network style transfer looks through, without any training."""

from pathlib import Path

import torch
import yaml
from run_events import SUMMARY

from normbench.models import build_model
from normbench.norms import make_norm


def write_features_run(folder: Path, norm: str = "bn", model: str = "resnet9", *, checkpoint: bool = True) -> Path:
    """Write what ``--keep-checkpoint`` leaves of a resnet9 run, with weights nobody trained."""
    folder.mkdir()
    config = {"norm": norm, "model": model, "dataset": "synthetic", "train": {}, "seed": 0, "device": "cpu"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text('{"state": "completed", "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}')
    (folder / "summary.json").write_text(SUMMARY.model_dump_json())
    if checkpoint:
        torch.manual_seed(0)
        state = build_model(model, norm=make_norm(norm)).state_dict()
        torch.save({"model": state, "optimizer": {}, "rows": []}, folder / "checkpoint.pt")
    return folder
