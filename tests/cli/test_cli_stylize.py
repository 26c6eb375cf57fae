"""``normbench stylize`` on the command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
import yaml
from PIL import Image
from run_events import SUMMARY

from normbench import load_runs
from normbench.models import build_model
from normbench.norms import make_norm
from normbench.report.drawing import Drawn
from normbench.tasks import style_transfer

TINY = [
    *("--content", "synthetic", "--steps", "2", "--device", "cpu"),
    *("--set", "train.batch_size=2", "--set", "image_size=32", "--set", "style_size=32", "--set", "num_content=4"),
]


TINY_CLASSIFIER = """
norms: [gn]
model: norm_resnet_small
dataset: {name: synthetic, options: {num_train: 32, num_test: 20}}
train: {epochs: 1, batch_size: 16}
device: cpu
"""


@pytest.fixture
def stylize(normbench: Callable[..., Any]) -> Callable[..., Any]:
    """Call ``normbench stylize``; runs train in this process instead of a worker's."""

    def call(*arguments: object, code: int = 0) -> Any:
        result = normbench("stylize", *map(str, arguments))
        assert result.code == code, result.err
        return result

    return call


@pytest.fixture(scope="module")
def features_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    config = {"norm": "bn", "model": "resnet9", "dataset": "synthetic", "train": {}, "seed": 0, "device": "cpu"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text('{"state": "completed", "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}')
    (folder / "summary.json").write_text(SUMMARY.model_dump_json())
    torch.save({"model": build_model("resnet9", norm=make_norm("bn")).state_dict()}, folder / "checkpoint.pt")
    return folder


def test_train_apply_and_redraw(stylize: Callable[..., Any], tmp_path: Path, features_run: Path) -> None:
    style = tmp_path / "style.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(style)
    arguments = ["train", "--style", style, "--norm", "gn", "--norm-option", "groups=8", "--features", features_run]
    trained = stylize(*arguments, *TINY)
    assert "GN (groups=8) Step 0/2 | Content: " in trained.err
    assert re.search(r"^GN \(groups=8\) seed 0: content [\d.]+, style [\d.]+, .* s training$", trained.err, re.M)
    (model,) = Path("runs/stylize").glob("gn-stylenet-s0-*/model.pt")
    assert {"loss_curve.png", "pictures.png"} <= {path.name for path in model.parent.iterdir()}
    assert Path("runs/stylize/report/report.html").exists()
    assert json.loads((model.parent / "environment.json").read_text())["features"] == f".../{features_run.name}"

    odd, broken, out = tmp_path / "odd.png", tmp_path / "broken.png", tmp_path / "out"
    Image.new("LA", (37, 21), (90, 128)).save(odd)
    broken.write_text("no image")
    applied = stylize("apply", model.parent, broken, odd, "--out", out, "--device", "cpu", code=1)
    assert applied.out.split() == [str(out / "odd-stylized.png")]
    assert "broken.png: not an image" in applied.err
    with Image.open(out / "odd-stylized.png") as image:
        assert (image.size, image.mode) == ((37, 21), "RGB")
    same_name = stylize("apply", model, odd, tmp_path / "other" / "odd.png", code=2)
    assert "two images have the same name" in same_name.err


def test_recorded_runs_are_listed_shown_and_redrawn(
    stylize: Callable[..., Any], normbench: Callable[..., Any], tmp_path: Path, features_run: Path, monkeypatch
) -> None:
    """The commands that read classifiers' runs read these as well, also where both lie under one folder."""
    with monkeypatch.context() as patch:  # nothing is drawn yet
        patch.setattr("normbench.experiment.execute.write_report_of", lambda *_, **__: [])
        patch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
        check_trained_beside_a_classifier(stylize, normbench, tmp_path, features_run)
    (run,) = Path("runs/stylize").glob("in-*")
    pictures = [run / "pictures.png", Path("runs/stylize/report/report.html")]
    assert not any(path.exists() for path in pictures)
    monkeypatch.setattr("normbench.report.drawing.draw_figure", lambda _: Drawn("", {}))  # as tests/report does
    drawn = normbench("plots")
    assert drawn.code == 0, drawn.err
    assert set(map(str, pictures)) <= set(drawn.out.splitlines())
    assert all(path.exists() for path in pictures)

    page = Path("runs/stylize/report/report.html")
    page.unlink()
    assert str(page) in json.loads(normbench("report", "runs/stylize", "--json").out)["written"]["runs/stylize"]
    assert page.exists()
    assert "content_loss" in normbench("table", "runs/stylize", "--format", "tsv").out
    assert {row["task"] for row in load_runs("runs")} == {"classification", "style_transfer"}


def check_trained_beside_a_classifier(
    stylize: Callable[..., Any], normbench: Callable[..., Any], tmp_path: Path, features_run: Path
) -> None:
    arguments = ["train", "--norm", "in", "--features", features_run, *TINY]
    planned = stylize(*arguments, "--dry-run")
    assert "1 run (1 new); 1 to run" in planned.out
    assert not Path("runs").exists()
    trained = stylize(*arguments)
    (model,) = Path("runs/stylize").glob("in-stylenet-s0-*/model.pt")
    assert str(model) in trained.out.splitlines()
    assert "IN" in trained.out
    assert "1 run (1 completed); 0 to run" in stylize(*arguments, "--dry-run").out
    (tmp_path / "tiny.yaml").write_text(TINY_CLASSIFIER)
    assert normbench("compare", "tiny.yaml").code == 0

    listed = json.loads(normbench("ls", "--json").out)["experiments"]
    assert [(entry["experiment"], entry["states"]) for entry in listed] == [
        ("stylize", {"completed": 1}),
        ("tiny", {"completed": 1}),
    ]
    (run,) = Path("runs/stylize").glob("in-*")
    shown = json.loads(normbench("show", "in-", "--json").out)
    assert (shown["run"], shown["num_steps_recorded"], shown["config"]["style"]) == (run.name, 2, "mosaic")
    text = normbench("show", "in-").out
    assert "contrast_change.0.4" in text
    assert "model.pt" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "give --norm"),
        (["train", "--norm", "inn"], 2, "did you mean 'in'"),
        (["train", "--norm", "ln_chw", *TINY], 2, "parameters per pixel"),
        (["train", "--norm", "in", "--style", "nothing.jpg", *TINY], 3, "style image nothing.jpg: no such file"),
        (["train", "--norm", "in", *TINY, "--content", "nowhere"], 3, "content nowhere: no such folder"),
        (["train", "--norm", "in", *TINY, "--content", "cifar10"], 3, "CIFAR-10 not found"),
        (["train", "--norm", "in", *TINY, "--content", "."], 3, ".: no image there"),
        (["train", "--norm", "in", "--features", "nowhere", *TINY], 1, "--features nowhere: no such run folder"),
        (["compare", "styl"], 2, "styl: no such config file"),
        (["apply", "model.pt", "image.png"], 3, "model.pt: no such model"),
        (["compare", "style", "--engine", "graph", "--device", "cpu"], 2, "engine graph exists on cuda only"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    stylize: Callable[..., Any], arguments: list[str], code: int, message: str
) -> None:
    result = stylize(*arguments, code=code)
    assert message in result.err
    assert "Traceback" not in result.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_the_default_feature_network_is_trained_once_beside_the_other_runs(
    stylize: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found where it is, and in the user cache, where it was kept before."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(style_transfer, "FEATURE_IMAGES", {"cpu": {"num_train": 32, "num_test": 10}})
    monkeypatch.setattr(style_transfer, "FEATURE_TRAINING", {"cpu": {"epochs": 1, "batch_size": 16}})
    monkeypatch.setattr("normbench.experiment.execute._report", lambda comparison, *_, **__: comparison)
    arguments = ["train", "--norm", "none", *TINY]
    said = stylize(*arguments).err
    (checkpoint,) = Path("runs").rglob("checkpoint.pt")
    assert checkpoint.parent.parent == Path("runs/features-synthetic")
    assert f"training the feature network once, a resnet9 on synthetic; it is kept in {checkpoint.parent}" in said
    assert not (tmp_path / "cache").exists()
    written = checkpoint.stat().st_mtime_ns
    again = stylize(*arguments)
    assert "training the feature network" not in again.err
    assert re.search(r"^none seed 0: completed before, kept \(content [\d.]+, style [\d.]+\)$", again.err, re.M)
    assert checkpoint.stat().st_mtime_ns == written

    checkpoint.unlink()
    assert "training the feature network" not in stylize(*arguments).err  # nothing needs it
    assert "training the feature network once" in stylize(*arguments, "--force").err
    assert checkpoint.exists()

    cache = tmp_path / "cache" / "normbench"
    cache.mkdir(parents=True)
    Path("runs/features-synthetic").rename(cache / "features-synthetic")
    assert "training the feature network" not in stylize(*arguments, "--force").err
    (run,) = Path("runs/stylize").glob("none-*")
    assert json.loads((run / "environment.json").read_text())["features"] == f".../{checkpoint.parent.name}"
    assert not Path("runs/features-synthetic").exists()
