"""Training: it lowers the loss, pairs by seed, and stops where a loss is not finite; applying; contrast."""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from style_cases import photograph, tiny_run
from torch import nn

from normbench.config.style import StyleRunConfig
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.checkpoint import CheckpointError
from normbench.errors import ConfigError, DataError, DivergedError
from normbench.models.stylenet import StyleTransferNet
from normbench.norms import make_norm
from normbench.runs.events import CheckpointFailed, FactsLearned, RunEvent, Started, StepsDone, TrainingDone
from normbench.style.apply import CONTRAST_FACTORS, contrast_changes, load_style_model, stylize
from normbench.style.losses import content_loss, gram_matrix, style_loss, total_variation
from normbench.style.step import StyleTraining, repeated_order
from normbench.worker.stylizers import STYLE_TRANSFER, build_style_network, load_content, load_features
from normbench.worker.targets import RunRequest, TimingCandidate, TimingSchedule
from normbench.worker.time_norms import time_setting
from normbench.worker.train_run import train_run


def train(folder: Path, features_run: Path, norm: str = "in", **changes: object) -> list[RunEvent]:
    return list(run(tiny_run(norm, **changes), features_run, folder))


def run(config: StyleRunConfig, features_run: Path, folder: Path, *, resume: bool = False) -> Iterator[RunEvent]:
    return train_run(RunRequest(config, folder, None, resume, keep_checkpoint=False, prerequisite=features_run))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, features_run: Path) -> list[RunEvent]:
    """What the tiny run of IN tells from its start to its end."""
    return train(tmp_path_factory.mktemp("straight"), features_run)


def losses_of(events: list[RunEvent]) -> list[tuple[float, ...]]:
    return [row for event in events if isinstance(event, StepsDone) for row in event.losses]


def test_a_training_learns_and_leaves_a_model(tmp_path: Path, features_run: Path) -> None:
    config = {"train": {"steps": 14, "batch_size": 2, "lr": 3e-3}}
    events = train(tmp_path, features_run, **config)
    assert isinstance(events[0], Started)
    assert events[0].facts["features"] == str(features_run)
    rows = losses_of(events)
    assert len(rows) == 14
    assert np.mean([row[0] for row in rows[-3:]]) < np.mean([row[0] for row in rows[:3]])
    end = events[-1]
    assert isinstance(end, TrainingDone)
    assert end.samples["stylized"].shape == end.samples["content"].shape == (6, 16, 16, 3)
    assert end.summary.num_parameters == 1_676_035
    assert end.summary.style_loss == pytest.approx(rows[-1][2], rel=1e-5)  # a tenth of 14 steps is the last one
    assert set(end.summary.contrast_change) == set(CONTRAST_FACTORS)
    network, norm = load_style_model(tmp_path / "model.pt")
    assert norm == "in"
    assert np.array_equal(stylize(network, end.samples["content"][0]), end.samples["stylized"][0])


def test_a_training_stopped_before_its_first_step_goes_on(
    tmp_path: Path, features_run: Path, straight: list[RunEvent]
) -> None:
    events = run(tiny_run(), features_run, tmp_path)
    assert isinstance(next(events), Started)
    events.close()  # as when the parent asks to stop
    resumed = list(run(tiny_run(), features_run, tmp_path, resume=True))
    assert isinstance(resumed[0], Started)
    assert resumed[0].problems == ()
    assert losses_of(resumed) == losses_of(straight)


def test_the_first_step_is_the_written_out_loss(tmp_path: Path, features_run: Path) -> None:
    config = tiny_run("gn")
    events = train(tmp_path, features_run, "gn")
    total, content, style, variation = losses_of(events)[0]
    features = load_features(config, features_run)
    images, _, _ = load_content(config, None)
    batch = normalize(torch.from_numpy(images)[repeated_order(len(images), 2, config.seed)].permute(0, 3, 1, 2))
    output = build_style_network(config).train()(batch)
    (sample,) = [event for event in events if isinstance(event, TrainingDone)]
    grams = [
        gram_matrix(m)
        for m in features(normalize(torch.from_numpy(sample.samples["style"])[None].permute(0, 3, 1, 2))).style
    ]
    seen = features(output)
    expected = (
        content_loss(seen.content, features(batch).content),
        style_loss(seen.style, grams),
        total_variation(output),
    )
    assert (content, style, variation) == pytest.approx([value.item() for value in expected], rel=1e-3)
    weights = (config.train.content_weight, config.train.style_weight, config.train.total_variation_weight)
    assert total == pytest.approx(sum(w * v.item() for w, v in zip(weights, expected, strict=True)), rel=1e-3)


def test_the_same_seed_trains_the_same_and_all_norms_see_the_same_images(
    tmp_path: Path, features_run: Path, straight: list[RunEvent]
) -> None:
    assert losses_of(train(tmp_path, features_run)) == losses_of(straight)
    assert losses_of(train(tmp_path, features_run, seed=1)) != losses_of(straight)
    seen = repeated_order(5, 10, seed=0)
    assert sorted(seen[:5].tolist()) == sorted(seen[5:].tolist()) == [0, 1, 2, 3, 4]
    assert len(repeated_order(3, 8, seed=0)) == 8


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, features_run: Path) -> None:
    events: list[RunEvent] = []
    config = tiny_run("none", train={"steps": 4, "batch_size": 2, "lr": 1e30})
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at step \d of 4"):
        events.extend(run(config, features_run, tmp_path))
    rows = losses_of(events)
    assert math.isfinite(rows[0][0])
    assert not math.isfinite(rows[-1][0])
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(("norm", "num_before"), [("brn", 2), ("bn", 4)])  # brn has a schedule and its own buffers
def test_an_interrupted_training_goes_on_exactly(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch, norm: str, num_before: int
) -> None:
    monkeypatch.setattr("normbench.engine.trainer.STEPS_BETWEEN_REPORTS", 1)
    config = tiny_run(norm, train={"steps": 4, "batch_size": 2})
    straight = list(run(config, features_run, tmp_path))
    (tmp_path / "model.pt").unlink()
    assert len(losses_of(straight)) == 4

    first = run(config, features_run, tmp_path)
    head = [next(first) for _ in range(2 + num_before)]  # and how it starts, and how its steps run
    first.close()
    assert not (tmp_path / "model.pt").exists()
    second = list(run(config, features_run, tmp_path, resume=True))
    started, end = second[0], second[-1]
    assert isinstance(started, Started)
    assert list(started.losses) == losses_of(head) == losses_of(straight)[:num_before]
    assert losses_of(head) + losses_of(second) == losses_of(straight)
    assert isinstance(end, TrainingDone)
    assert isinstance(straight[-1], TrainingDone)
    assert np.array_equal(end.samples["stylized"], straight[-1].samples["stylized"])
    assert end.summary.style_loss == straight[-1].summary.style_loss
    assert end.summary.contrast_change == straight[-1].summary.contrast_change


def test_checkpoints_are_written_on_the_way_and_a_full_disk_is_told(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_SECONDS_BETWEEN_CHECKPOINTS", "SECONDS_AFTER_FAILED_CHECKPOINT"):
        monkeypatch.setattr(f"normbench.worker.train_run.{name}", 0.0)
    monkeypatch.setattr("normbench.worker.train_run.MAX_CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr("normbench.engine.trainer._SECONDS_BETWEEN_REPORTS", 60.0)
    kinds = [Started, StepsDone, FactsLearned, StepsDone, TrainingDone]
    with closing(run(tiny_run(), features_run, tmp_path)) as events:
        assert [type(next(events)) for _ in kinds] == kinds
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["losses"]) == 3
    folder = tmp_path / "other"
    folder.mkdir()

    def fail(*_: object) -> None:
        raise CheckpointError("no space left on device")

    monkeypatch.setattr("normbench.worker.train_run.save_checkpoint", fail)
    told = [type(event) for event in run(tiny_run(), features_run, folder)]
    assert told == [*kinds[:3], CheckpointFailed, StepsDone, CheckpointFailed, TrainingDone]


def test_a_checkpoint_from_before_the_common_loop_still_loads(
    tmp_path: Path, features_run: Path, straight: list[RunEvent]
) -> None:
    events = run(tiny_run(), features_run, tmp_path)
    head = [next(events) for _ in range(2)]
    events.close()  # type: ignore[attr-defined]
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    old = {name: state[name] for name in ("model", "optimizer", "losses")} | {"seconds": state["epoch_seconds"]}
    torch.save(old, tmp_path / "checkpoint.pt")
    tail = list(run(tiny_run(), features_run, tmp_path, resume=True))
    assert losses_of(head) + losses_of(tail) == losses_of(straight)


def test_steps_of_style_transfer_are_timed_in_turn(features_run: Path) -> None:
    wanted = [TimingCandidate(tiny_run(norm), 0.0, 1.0, 3, features_run) for norm in ("in", "bn")]
    *shares, part = time_setting(wanted, TimingSchedule(2, 0.0), None)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert [norm.label for norm in part.timed] == ["in", "bn"]
    assert all(len(norm.seconds_per_step) == 2 and norm.steps_per_epoch == 3 for norm in part.timed)
    assert not part.skipped


def test_a_damaged_checkpoint_is_named(tmp_path: Path, features_run: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    (problem,) = next(run(tiny_run(), features_run, tmp_path, resume=True)).problems
    assert problem.startswith(f"{tmp_path / 'checkpoint.pt'}: the checkpoint cannot be used (")


def test_a_step_never_asks_the_device_for_a_value(features_run: Path) -> None:
    """On the meta device there is none to get: what would stop a capture raises here."""
    config = tiny_run("brn")
    images = np.zeros((4, 32, 32, 3), np.uint8)
    content = DeviceImages(images, np.zeros(4, np.int64), "meta", channels_last=True)
    network = build_style_network(config)
    features = load_features(config, features_run)
    step = StyleTraining(
        network, features, images[0], content, images, config.train, seed=0, device="cpu", precision="fp32"
    ).step
    step.optimizer = torch.optim.SGD(network.parameters(), lr=0.1)  # Adam in one kernel has no meta device
    step.run(2)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_content_from_a_folder(tmp_path: Path, features_run: Path) -> None:
    for number in range(5):
        Image.fromarray(photograph(seed=number)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    training, shown, problems = load_content(tiny_run(content=str(tmp_path)), None)
    assert training.shape == shown.shape == (5, 16, 16, 3)  # too few to hold any out
    assert len(problems) == 1
    events = train(tmp_path, features_run, content=str(tmp_path))
    assert isinstance(events[0], Started)
    assert events[0].problems == tuple(problems)


def test_mistakes_are_found_before_anything_is_trained() -> None:
    with pytest.raises(DataError, match="content nowhere: no such folder, nor a data set"):
        STYLE_TRANSFER.check_model(tiny_run(content="nowhere"))
    with pytest.raises(DataError, match=r"style image nothing\.jpg"):
        STYLE_TRANSFER.check_model(tiny_run(style="nothing.jpg"))
    with pytest.raises(ConfigError, match="ln_chw has parameters per pixel"):
        STYLE_TRANSFER.check_model(tiny_run("ln_chw"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 50), (64, 64)])
def test_an_image_of_any_size_keeps_it(height: int, width: int) -> None:
    torch.manual_seed(0)
    network = StyleTransferNet(make_norm("in"))
    image = photograph(height, width)
    stylized = stylize(network, image)
    assert stylized.shape == (height, width, 3)
    assert stylized.dtype == np.uint8
    if height > 1:
        assert stylized.std() > 0


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such model"):
        load_style_model(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(DataError, match="not a model of `normbench stylize`") as refused:
        load_style_model(tmp_path / "model.pt")
    assert "weights_only" not in str(refused.value)  # torch advises to load untrusted code
    torch.save({"norm": {"name": "in", "options": {}}, "model": {}}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="not a model of `normbench stylize`"):
        load_style_model(tmp_path / "model.pt")


class Brighten(nn.Module):
    """Networks whose change is known: ``gain x + offset`` for each image."""

    def __init__(self, gain: float, offset: float) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x + self.offset


class Normalize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.instance_norm(x, eps=0)


def test_contrast_changes_of_known_networks() -> None:
    """A linear network's output moves by 1 - c of its own contrast; an instance-normalized one stays where it is."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for factor, change in contrast_changes(Brighten(0.4, 0.1), images).items():
        assert change == pytest.approx(1 - factor, rel=1e-4)
    assert max(contrast_changes(Normalize(), images).values()) < 1e-4
