"""Configs of style transfer: strict, located, and with runs that are found again."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from style_cases import tiny_run

from normbench.config.load import LoadedConfig, load_config
from normbench.config.style import StyleExperimentConfig, StyleRunConfig
from normbench.errors import ConfigError
from normbench.experiment.plan import draft_runs, finish_plans
from normbench.worker.targets import resolve_runs

CONFIG = Path(__file__).parents[2] / "configs" / "style.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def load(file: Path, *, settings: Sequence[str] = (), **flags: object) -> LoadedConfig:
    """Load a config as `normbench stylize` does."""
    return load_config(file, settings=settings, flags={"task": "style_transfer", "device": "cpu", **flags})


def runs_of(loaded: LoadedConfig) -> list[StyleRunConfig]:
    drafts = draft_runs(loaded)
    plans = finish_plans(drafts, resolve_runs(drafts))
    return [StyleRunConfig.model_validate(plan.config) for plan in plans]


def test_the_built_in_config_compares_the_papers_norms() -> None:
    loaded = load(CONFIG)
    experiment = loaded.experiment
    assert isinstance(experiment, StyleExperimentConfig)
    assert [norm.name for norm in experiment.norms] == ["in", "bn", "gn", "ln", "none"]
    assert len(experiment.seeds) >= 3
    assert experiment.content == "cifar10"
    runs = runs_of(loaded)
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
        ("norms: [{name: gn, train: {step: 1}}]\n", r"norms\.0\.train\.step: unknown key; did you mean 'steps'"),
        ("norms: [in, in]\n", "two norms are called 'IN'; give each its own label"),
        ("style: mosaic\n", "norms: is required"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draft_runs(load(write(tmp_path, text)))


def test_settings_and_flags_go_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "norms: [in]\ntrain: {steps: 5, lr: 1e-2}\n")
    experiment = load(file, settings=["train.steps=6"], **{"train.steps": 7, "style": "waves"}).experiment
    assert (experiment.train.steps, experiment.train.learning_rate, experiment.style) == (7, 1e-2, "waves")
    assert experiment.name == "experiment"


def test_a_runs_own_config_is_an_experiment_of_that_run(tmp_path: Path) -> None:
    (run,) = runs_of(load(write(tmp_path, yaml.safe_dump(tiny_run("gn", seed=3).model_dump(mode="json")))))
    assert (run.norm.options["groups"], run.train.steps, run.seed) == (4, 3, 3)
    assert runs_of(load(write(tmp_path, yaml.safe_dump(run.model_dump(mode="json"))))) == [run]


def test_a_run_is_known_by_what_decides_it() -> None:
    run = tiny_run()
    assert run.run_id.startswith("in-stylenet-s0-")
    relabeled = run.model_copy(update={"norm": run.norm.model_copy(update={"label": "other"})})
    assert relabeled.run_id == run.run_id
    assert tiny_run(style="mosaic").run_id != run.run_id
    assert tiny_run(seed=1).run_id != run.run_id


def test_a_norm_may_train_its_own_way(tmp_path: Path) -> None:
    own = runs_of(load(write(tmp_path, "norms: [in, {name: gn, train: {lr: 0.5}}]\n")))
    everyones = runs_of(load(write(tmp_path, "norms: [in, gn]\ntrain: {lr: 0.5}\n")))
    assert [run.train.learning_rate for run in own] == [1e-3, 0.5]
    assert own[1].run_id == everyones[1].run_id


def test_runs_keep_the_ids_that_they_had_before_configs_named_a_task(tmp_path: Path) -> None:
    """The right side is what NormBench wrote before `task:`, `norms.train` and the shared planner."""
    plain = runs_of(load(write(tmp_path, "norms: [in, gn]\n")))
    assert [run.run_id for run in plain] == ["in-stylenet-s0-039cf538", "gn-stylenet-s0-0ecd24ca"]
    text = "norms: [{name: gn, options: {groups: 8}}]\nstyle: waves\ntrain: {lr: 0.01, engine: eager}\nseeds: [3]\n"
    assert [run.run_id for run in runs_of(load(write(tmp_path, text)))] == ["gn-stylenet-s3-67eec826"]


def test_any_command_reads_a_style_config_for_what_it_is(tmp_path: Path) -> None:
    assert isinstance(load_config(CONFIG).experiment, StyleExperimentConfig)
    before_tasks = write(tmp_path, "norms: [in]\nstyle: mosaic\n")
    assert load_config(before_tasks).experiment.task == "style_transfer"
    with pytest.raises(
        ConfigError, match=r"experiment\.yaml:1: task: unknown task 'style'; did you mean 'style_transfer'"
    ):
        load_config(write(tmp_path, "task: style\nnorms: [in]\n"))
