"""Grids: every combination is a config of its own, with the lines of its values."""

from pathlib import Path

import pytest

from normbench.config.load import LoadedConfig, load_config
from normbench.errors import ConfigError


def load(tmp_path: Path, text: str, *settings: str) -> LoadedConfig:
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    return load_config(file, settings=settings)


def points(loaded: LoadedConfig) -> list[tuple[int, str]]:
    return [(cell.experiment.train.batch_size, cell.experiment.model.name) for cell in loaded.cells]


GRID = "norms: [bn]\ntrain: {batch_size: 32}\ngrid:\n"
PRODUCT = [(1, "norm_resnet"), (1, "resnet9"), (4, "norm_resnet"), (4, "resnet9")]


@pytest.mark.parametrize(
    "written", ["  train.batch_size: [1, 4]\n", "  train:\n    batch_size: [1, 4]\n", "  train: {batch_size: [1, 4]}\n"]
)
def test_all_combinations_however_they_are_nested(tmp_path: Path, written: str) -> None:
    loaded = load(tmp_path, GRID + written + "  model: [norm_resnet, {name: resnet9}]\n")
    assert points(loaded) == PRODUCT
    assert loaded.cells[1].point == "batch size 1, resnet9"
    assert all(not cell.experiment.grid for cell in loaded.cells)


def test_without_a_grid_there_is_one_cell(tmp_path: Path) -> None:
    loaded = load(tmp_path, "norms: [bn]\n")
    assert loaded.cells == (loaded,)


@pytest.mark.parametrize("written", ["  train.batch_size: [2]\n", "  train:\n    batch_size: [2]\n", ""])
def test_set_replaces_the_values_of_a_field(tmp_path: Path, written: str) -> None:
    model = "  model: [norm_resnet, resnet9]\n"
    assert points(load(tmp_path, GRID + model + written, "grid.train.batch_size=[1, 4]"))[:1] == [(1, "norm_resnet")]
    assert sorted(points(load(tmp_path, GRID + model + written, "grid.train.batch_size=[1, 4]"))) == PRODUCT
    with pytest.raises(ConfigError, match=r"^--set grid.train.batch_size=\[0\]: must be greater than or equal to 1"):
        load(tmp_path, GRID + model + written, "grid.train.batch_size=[0]")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("  train.batch_size:\n  - 4\n  - none\n", r"exp.yaml:6: train.batch_size: must be an integer, not 'none'"),
        ("  train.batchsize: [4]\n", r"exp.yaml:4: train.batchsize: unknown key; did you mean 'batch_size'"),
        ("  tain: {batch_size: [4]}\n", r"exp.yaml:4: tain: unknown key; did you mean 'train'"),
        (
            "  train.batch_size: 4\n",
            r"exp.yaml:4: grid.train.batch_size: 4 is not allowed: a list of one or more values",
        ),
        ("  train.batch_size: []\n", r"exp.yaml:4: grid.train.batch_size: \[\] is not allowed: a list of one"),
        ("  norms: [[bn], [gn]]\n", r"exp.yaml:4: grid: norms cannot be in a grid: norms are listed in `norms`"),
        ("  seeds: [1, 2]\n", r"exp.yaml:4: grid: seeds cannot be in a grid"),
        ("  train.lr: [1]\n  train.learning_rate: [2]\n", r"exp.yaml:4: grid: lr and learning_rate are the same"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GRID + lines)


def test_all_problems_of_all_cells_are_told_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, GRID + "  train.batch_size: [0, 4]\n  train.epochs: [0, 1, 2]\n")
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert {line.partition("exp.yaml:")[2][:20] for line in lines} == {"4: train.batch_size:", "5: train.epochs: mus"}


@pytest.mark.parametrize("field", ["lr", "learning_rate"])
def test_a_norm_that_sets_the_field_for_itself_is_not_swept_silently(tmp_path: Path, field: str) -> None:
    text = f"norms: [bn, {{name: gn, train: {{lr: 0.1}}}}]\ngrid: {{train.{field}: [1, 2]}}\n"
    with pytest.raises(ConfigError, match=rf"exp.yaml:2: grid: train.{field} would not reach norms.1 \(gn\)"):
        load(tmp_path, text)


def test_a_probe_at_batch_size_1_goes_with_no_grid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exp.yaml:4: batch_one: it is a probe of a comparison without a grid"):
        load(tmp_path, GRID.replace("grid:\n", "grid: {train.lr: [1]}\nbatch_one: {}\n"))


@pytest.mark.parametrize(
    ("rule", "batch_size", "expected"),
    [("none", 256, 1e-3), ("linear", 256, 4e-3), ("linear", 16, 2.5e-4), ("sqrt", 256, 2e-3), ("sqrt", 1, 1.25e-4)],
)
def test_the_learning_rate_follows_the_batch_size_by_rule(
    tmp_path: Path, rule: str, batch_size: int, expected: float
) -> None:
    text = f"norms: [bn, {{name: gn, train: {{lr: 2e-3}}}}]\nlr_scaling: {rule}\ntrain: {{batch_size: {batch_size}}}\n"
    experiment = load(tmp_path, text).experiment
    assert experiment.train_for(experiment.norms[0]).learning_rate == pytest.approx(expected)
    assert experiment.train_for(experiment.norms[1]).learning_rate == pytest.approx(2 * expected)


def test_the_rule_takes_its_own_reference(tmp_path: Path) -> None:
    text = "norms: [bn]\nlr_scaling: {rule: linear, reference_batch_size: 32}\n"
    experiment = load(tmp_path, text).experiment
    assert experiment.train_for(experiment.norms[0]).learning_rate == pytest.approx(2e-3)
    with pytest.raises(ConfigError, match="did you mean 'reference_batch_size'"):
        load(tmp_path, "norms: [bn]\nlr_scaling: {rule: linear, reference_batch: 32}\n")
