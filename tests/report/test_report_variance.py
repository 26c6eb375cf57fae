"""Where the spread comes from: the analysis of hits by images, and the tables that show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from normbench.report.page import Report
from normbench.report.variance import crossed
from normbench.runs.records import read_experiment


def test_the_share_of_the_images_is_what_more_images_would_take_away() -> None:
    """Runs of sd 0.5, images of sd 3, and a part of sd 10 of each run on each of 400 images: 0.5 in a mean."""
    rng = np.random.default_rng(0)
    shares, covered = [], 0
    for _ in range(400):
        values = rng.normal(0, 0.5, (8, 1)) + rng.normal(0, 3, (1, 400)) + rng.normal(0, 10, (8, 400))
        found = crossed(values)
        shares.append(found.image_share)
        covered += abs(found.mean) <= found.half_width
    assert np.median(shares) == pytest.approx(0.5, abs=0.1)
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_the_same_runs_on_all_images_have_no_spread() -> None:
    values = np.tile(np.random.default_rng(1).integers(0, 2, 50).astype(float), (4, 1))
    found = crossed(values)
    assert (found.std_of_runs, found.image_share) == (0.0, 0.0)
    assert found.half_width > 0, "other images would have given another mean"


def test_runs_in_which_one_thing_varies_stand_in_a_table_and_in_no_mean(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    accuracies = {"initialization": (0.71, 0.72), "order": (0.705, 0.695)}
    for seed, accuracy in enumerate((0.70, 0.73, 0.69)):
        new_run(tmp_path, "bn", seed, accuracy=accuracy, epochs=1, steps_per_epoch=2)
    for source, values in accuracies.items():
        for seed, accuracy in enumerate(values, start=1):
            folder = new_run(
                tmp_path, "bn", seed, accuracy=accuracy, epochs=1, steps_per_epoch=2, folder_name=f"{source}{seed}"
            )
            config = yaml.safe_load((folder / "config.yaml").read_text())
            held = {other: 0 for other in ("initialization", "order", "augmentation") if other != source}
            (folder / "config.yaml").write_text(json.dumps(config | {"probe": "variance", "held": held}))
    report = Report(read_experiment(tmp_path))
    assert report.tables[0].rows[0].runs == "3/3"
    chapter = next(chapter for chapter in report.chapters if chapter.anchor == "spread")
    (row,) = chapter.grids[0].rows
    stds = [float(cell.partition(" ")[0]) for cell in row[1:-1]]
    expected = [(0.70, 0.73, 0.69), (0.70, 0.71, 0.72), (0.70, 0.705, 0.695)]
    assert stds == pytest.approx([100 * np.std(values, ddof=1) for values in expected], abs=0.005)
    assert row[-1] == "-", "augmentation was not varied"
