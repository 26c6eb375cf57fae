"""Configs of style transfer: strict, located, and with runs that are found again."""

from pathlib import Path

import pytest
from style_cases import tiny_run

from normbench.config.load import load_config
from normbench.errors import ConfigError
from normbench.style.config import load_style_config, run_configs

CONFIG = Path(__file__).parents[2] / "configs" / "style.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def test_the_built_in_config_compares_the_papers_norms() -> None:
    experiment = load_style_config(CONFIG)
    assert [norm.name for norm in experiment.norms] == ["in", "bn", "gn", "ln", "none"]
    assert len(experiment.seeds) >= 3
    assert experiment.content == "cifar10"
    runs = run_configs(experiment, "cpu")
    assert [(run.norm.name, run.seed) for run in runs[:6]] == [
        ("in", 0),
        ("bn", 0),
        ("gn", 0),
        ("ln", 0),
        ("none", 0),
        ("in", 1),
    ]
    assert len({run.run_id for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norms: [in]\nstle: mosaic\n", r"experiment\.yaml:2: stle: unknown key; did you mean 'style'\?"),
        ("norms: [inn]\n", r"experiment\.yaml:1: norms\.0: unknown norm 'inn'; did you mean 'in'\?"),
        ("norms: [in]\ntrain: {step: 5}\n", r"experiment\.yaml:2: train\.step: unknown key; did you mean 'steps'\?"),
        ("norms: [in]\nimage_size: 30\n", r"experiment\.yaml:2: image_size: must be a multiple of 4, not 30"),
        ("norms: [{name: gn, options: {group: 2}}]\n", "option of norm 'gn': 'group'; did you mean 'groups'"),
        ("norms: [{name: gn, train: {lr: 1}}]\n", "trains all norms alike"),
        ("norms: [in, in]\n", "two norms are called 'IN'; give each its own label"),
        ("style: mosaic\n", "norms: is required"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_style_config(write(tmp_path, text))


def test_settings_and_flags_go_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "norms: [in]\ntrain: {steps: 5, lr: 1e-2}\n")
    experiment = load_style_config(file, settings=["train.steps=6"], flags={"train.steps": 7, "style": "waves"})
    assert (experiment.train.steps, experiment.train.learning_rate, experiment.style) == (7, 1e-2, "waves")
    assert experiment.name == "experiment"


def test_a_runs_own_config_is_an_experiment_of_that_run(tmp_path: Path) -> None:
    import yaml

    run = tiny_run("gn", seed=3)
    experiment = load_style_config(write(tmp_path, yaml.safe_dump(run.model_dump(mode="json"))))
    assert run_configs(experiment, "cpu") == [run]


def test_a_run_is_known_by_what_decides_it() -> None:
    run = tiny_run()
    assert run.run_id.startswith("in-stylenet-s0-")
    relabeled = run.model_copy(update={"norm": run.norm.model_copy(update={"label": "other"})})
    assert relabeled.run_id == run.run_id
    assert tiny_run(style="mosaic").run_id != run.run_id
    assert tiny_run(seed=1).run_id != run.run_id


def test_compare_sends_a_style_config_to_stylize() -> None:
    with pytest.raises(ConfigError, match=r"style\.yaml.*normbench stylize compare"):
        load_config(CONFIG)
