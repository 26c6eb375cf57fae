"""What ``probes:`` means in a config, and that configs without it mean what they did."""

from pathlib import Path
from typing import Any

import pytest

from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.errors import ConfigError
from normbench.experiment.plan import draft_runs

DEFAULTS = {"every": 500, "samples": 64}


def load(tmp_path: Path, text: str, *settings: str) -> Any:
    file = tmp_path / "exp.yaml"
    file.write_text(f"norms: [bn]\n{text}\n")
    return load_config(file, settings=settings)


@pytest.mark.parametrize("text", ["signals", "[signals]", "{signals: {}}", "{signals: }", "{signals: {every: 500}}"])
def test_probes_can_be_written_in_short(tmp_path: Path, text: str) -> None:
    experiment = load(tmp_path, f"probes: {text}").experiment
    assert experiment.model_dump()["probes"] == {"signals": DEFAULTS}
    assert load(tmp_path, "", f"probes={text}").experiment.probes == experiment.probes
    assert load(tmp_path, "", "probes.signals.samples=8").experiment.probes.signals.samples == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("probes: [sgnals]", "probes.sgnals: unknown key; did you mean 'signals'? Allowed: landscape, signals, curv"),
        ("probes: {landscape: {evry: 3}}", "probes.landscape.evry: unknown key; did you mean 'every'? Allowed: every"),
        ("probes: {signals: {every: 0}}", "probes.signals.every: must be greater than or equal to 1, not 0"),
        ("probes: {}", "probes: name at least one of landscape, signals, curvature, or leave it out"),
        ("probes: 3", "probes: 3 is not allowed: a section of settings belongs here"),
        ("probes: {landscape: {step_sizes: [.nan]}}", "probes.landscape.step_sizes.0: must be"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert f"exp.yaml:2: {expected}" in str(caught.value)


def test_ids_and_configs_of_runs_without_probes_are_those_of_before_there_were_any() -> None:
    data = {
        "norm": {"name": "bn", "options": {}}, "seed": 0, "device": "cpu", "model": "norm_resnet",
        "dataset": "synthetic", "train": {"precision": "fp32", "engine": "eager"},
    }  # fmt: skip
    config = RunConfig.model_validate(data)
    assert config.run_id == "bn-norm_resnet-bs64-s0-c3cdd995"
    assert "probes" not in config.model_dump()
    probed = RunConfig.model_validate({**data, "probes": ["signals"]})
    assert probed.run_id != config.run_id
    assert RunConfig.model_validate(probed.model_dump(mode="json")) == probed


def test_runs_at_batch_size_one_have_no_probes(tmp_path: Path) -> None:
    drafts = draft_runs(load(tmp_path, "probes: [signals]\nbatch_one: {steps: 100}"))
    found = {draft.config["probe"]: draft.config.get("probes") for draft in drafts}
    assert found == {None: {"signals": DEFAULTS}, "batch_one": None}
