"""A model takes the norms of its family, and an experiment with others ends before it begins."""

from pathlib import Path

import pytest

from normbench.config.load import load_config
from normbench.errors import ConfigError
from normbench.experiment.plan import RunPlan, draft_runs, finish_plans
from normbench.norms import SEQUENCE_NORMS
from normbench.norms.sequence import TokenRMSNorm
from normbench.worker.classifiers import build_run_model
from normbench.worker.targets import DraftError, RunDraft, resolve_runs


def drafts(tmp_path: Path, text: str) -> list[RunDraft]:
    file = tmp_path / "exp.yaml"
    file.write_text(f"device: cpu\ndataset: synthetic\n{text}")
    return draft_runs(load_config(file))


def plans_of(tmp_path: Path, text: str) -> list[RunPlan]:
    drafted = drafts(tmp_path, text)
    return finish_plans(drafted, resolve_runs(drafted))


def test_vit_takes_sequence_norms_with_their_labels_and_options(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, f"model: vit\nnorms: [{', '.join(SEQUENCE_NORMS)}]\n")
    assert [plan.config.label for plan in plans] == [norm.label for norm in SEQUENCE_NORMS.values()]
    assert plans[1].config.norm.options == {"eps": 1e-6, "affine": True}
    model = build_run_model(plans[1].config)
    assert sum(isinstance(module, TokenRMSNorm) for module in model.modules()) == 2 * 6 + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: vit\nnorms: [ln, gn]\n", r"exp\.yaml:4: norms\.1: unknown sequence norm 'gn'.*Allowed: ln, rms, bn"),
        ("norms: [bn, rms]\n", r"exp\.yaml:3: norms\.1: unknown norm 'rms'; did you mean 'rms2d'"),
        ("model: vit\nnorms: [ln+ws]\n", r"unknown weight method 'ws'.*\(sequence norms have none\)"),
        ("model: vit\nnorms: [{name: ln, options: {groups: 2}}]\n", "option of norm 'ln': 'groups'"),
        ("norms: [in]\nmodel: stylenet\n", r"exp\.yaml:4: model: stylenet is no classifier.*normbench stylize"),
    ],
)
def test_norms_and_models_that_do_not_belong_together_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drafts(tmp_path, text)


def test_heads_that_do_not_divide_fail_in_the_plan(tmp_path: Path) -> None:
    with pytest.raises(DraftError, match="n_head=5 does not divide d_model=192"):
        plans_of(tmp_path, "model: {name: vit, options: {n_head: 5}}\nnorms: [ln]\n")


def test_the_probe_at_batch_size_one_uses_the_familys_none(tmp_path: Path) -> None:
    planned = drafts(tmp_path, "model: vit\nnorms: [ln]\nbatch_one: {steps: 10}\n")
    assert [draft.config["norm"]["name"] for draft in planned] == ["ln", "ln", "none"]
    assert planned[2].config["norm"]["options"] == {}
