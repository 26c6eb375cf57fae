"""``normbench stylize`` on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import normbench.cli.stylize_running as running
from normbench.cli.stylize import app
from normbench.errors import ConfigError, DataError, NormBenchError, RunError
from normbench.models import build_model
from normbench.norms import make_norm

TINY = [
    *("--content", "synthetic", "--steps", "2", "--device", "cpu"),
    *("--set", "train.batch_size=2", "--set", "image_size=32", "--set", "style_size=32", "--set", "num_content=4"),
]


def run(*arguments: object, exit_code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def features_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    config = {"norm": "bn", "model": "resnet9", "dataset": "synthetic", "train": {}, "seed": 0, "device": "cpu"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text('{"state": "completed", "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}')
    torch.save({"model": build_model("resnet9", norm=make_norm("bn")).state_dict()}, folder / "checkpoint.pt")
    return folder


def test_train_apply_and_redraw(tmp_path: Path, features_run: Path) -> None:
    style = tmp_path / "style.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(style)
    arguments = ["train", "--style", style, "--norm", "gn", "--norm-option", "groups=8", "--features", features_run]
    stdout, stderr = run(*arguments, *TINY, "--runs-dir", tmp_path / "runs")
    assert "GN (groups=8) seed 0 | Step 0/2 | Content: " in stderr
    (model,) = (tmp_path / "runs" / "stylize").glob("gn-stylenet-s0-*/model.pt")
    assert str(model) in stdout.splitlines()
    assert "| GN (groups=8) |" in stdout
    assert json.loads((model.parent / "environment.json").read_text())["features"] == str(features_run)

    stdout, stderr = run(*arguments, *TINY, "--runs-dir", tmp_path / "runs")
    assert "completed before, kept" in stderr

    odd, broken = tmp_path / "odd.png", tmp_path / "broken.png"
    Image.new("LA", (37, 21), (90, 128)).save(odd)
    broken.write_text("no image")
    out = tmp_path / "out"
    stdout, stderr = run("apply", model.parent, broken, odd, "--out", out, "--device", "cpu", exit_code=1)
    assert stdout.split() == [str(out / "odd-stylized.png")]
    assert "broken.png: not an image" in stderr
    with Image.open(out / "odd-stylized.png") as image:
        assert (image.size, image.mode) == ((37, 21), "RGB")

    curves = tmp_path / "runs" / "stylize" / "report" / "style_losses.png"
    curves.unlink()
    stdout, _ = run("plots", tmp_path / "runs")
    assert str(curves) in stdout.splitlines()
    assert curves.exists()


def test_mistakes_are_said_before_anything_is_trained(tmp_path: Path, features_run: Path) -> None:
    runs = ["--runs-dir", tmp_path / "runs"]
    with pytest.raises(ConfigError, match="give --norm"):
        run("train", *runs)
    with pytest.raises(ConfigError, match="did you mean 'in'"):
        run("train", "--norm", "inn", *runs)
    for arguments, message in (
        (["--norm", "ln_chw"], "parameters per pixel"),
        (["--norm", "in", "--style", tmp_path / "nothing.jpg"], r"style image .*nothing\.jpg: no such file"),
        (["--norm", "in", "--features", tmp_path / "nowhere"], "no such run folder"),
    ):
        with pytest.raises(NormBenchError, match=message):
            run("train", *arguments, *TINY, *runs)
    with pytest.raises(DataError, match="no such model"):
        run("apply", tmp_path / "model.pt", tmp_path / "image.png")
    with pytest.raises(RunError, match="no style-transfer runs there"):
        run("plots", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_the_default_feature_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(running, "FEATURE_IMAGES", {"cpu": {"num_train": 32, "num_test": 10}})
    monkeypatch.setattr(running, "FEATURE_TRAINING", {"cpu": {"epochs": 1, "batch_size": 16}})
    arguments = ["train", "--norm", "none", *TINY, "--runs-dir", tmp_path / "runs"]
    _, first = run(*arguments)
    assert "training the feature network once, a resnet9 on synthetic" in first
    (checkpoint,) = (tmp_path / "cache" / "normbench").rglob("checkpoint.pt")
    written = checkpoint.stat().st_mtime_ns
    _, again = run(*arguments)
    assert "training the feature network" not in again
    assert checkpoint.stat().st_mtime_ns == written
