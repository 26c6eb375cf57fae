"""Networks of recorded runs, built again with the weights that they were trained to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import normbench
from normbench.config.schema import BaseRunConfig, RunConfig
from normbench.config.style import StyleRunConfig
from normbench.errors import DataError, RunError
from normbench.runs.writer import RunFolder
from normbench.style.apply import save_style_model
from normbench.tasks.classification import Summary
from normbench.tasks.style_transfer import StyleSummary
from normbench.worker.classifiers import build_run_model
from normbench.worker.stylizers import build_style_network

SHARED: dict[str, Any] = dict(
    num_steps=1, num_parameters=1, train_seconds=1.0, startup_seconds=1.0, peak_memory_mib=None, images_per_second=1.0
)
CLASSIFIED = Summary(
    **SHARED, test_accuracy=0.5, test_loss=1.0, train_accuracy=0.5, train_loss=1.0, num_epochs=1, epoch_seconds=1.0
)
STYLIZED = StyleSummary(
    **SHARED, content_loss=0.1, style_loss=0.1, total_variation=0.1, total_loss=0.3, contrast_change={}
)
CLASSIFIER = RunConfig.model_validate(
    {"norm": "gn", "model": "resnet9", "dataset": "synthetic", "train": {"epochs": 1}, "seed": 3, "device": "cpu"}
)
STYLIZER = StyleRunConfig.model_validate({"norm": "in", "seed": 3, "device": "cpu"})


def recorded(folder: Path, config: BaseRunConfig, summary: Summary | StyleSummary | None) -> Path:
    writer = RunFolder(folder / config.run_id).acquire()
    writer.begin(config)
    if summary is not None:
        writer.finish(summary, keep_checkpoint=True)
    writer.release()
    return writer.path


def test_a_classifier_is_what_its_checkpoint_holds(tmp_path: Path) -> None:
    folder = recorded(tmp_path, CLASSIFIER, CLASSIFIED)
    with pytest.raises(RunError, match="kept no checkpoint"):
        normbench.load_model(folder)
    trained = build_run_model(CLASSIFIER.model_copy(update={"seed": 4})).eval()
    torch.save({"model": trained.state_dict(), "optimizer": {}}, folder / "checkpoint.pt")
    (row,) = normbench.load_runs(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    for run in (folder, str(folder), row):
        network = normbench.load_model(run)
        assert not network.training
        assert torch.equal(network(images), trained(images))


def test_a_style_network_is_what_its_run_kept(tmp_path: Path) -> None:
    folder = recorded(tmp_path, STYLIZER, STYLIZED)
    with pytest.raises(DataError, match="no such model"):
        normbench.load_model(folder)
    trained = build_style_network(STYLIZER).eval()
    save_style_model(trained, STYLIZER.norm, folder / "model.pt")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(normbench.load_model(folder)(images), trained(images))


def test_a_run_that_did_not_complete_has_no_trained_network(tmp_path: Path) -> None:
    folder = recorded(tmp_path, CLASSIFIER, None)
    torch.save({"model": build_run_model(CLASSIFIER).state_dict()}, folder / "checkpoint.pt")
    with pytest.raises(RunError, match="the run is running"):
        normbench.load_model(folder)
    with pytest.raises(RunError, match="not a readable run folder"):
        normbench.load_model(tmp_path / "missing")
