"""The tree as data: every way ends in something that exists, builds, and is backed by evidence."""

import re
import subprocess
import sys

import pytest
import torch
import yaml

from normbench.advice.evidence import EVIDENCE
from normbench.advice.tree import Question, Recommendation
from normbench.advice.walk import (
    Step,
    choose,
    command,
    compare_command,
    config_lines,
    full_name,
    paths,
    questions,
    walk,
)
from normbench.config.schema import ExperimentConfig, NormConfig
from normbench.errors import ConfigError, UnknownNameError
from normbench.models import MODELS, build_model
from normbench.norms import WEIGHTS

PATHS = list(paths())


def name_of(path: tuple[Step, ...]) -> str:
    return "/".join(step.branch.answer for step in path)


def leaf(path: tuple[Step, ...]) -> Recommendation:
    end = path[-1].branch.then
    assert isinstance(end, Recommendation)
    return end


def answers(path: tuple[Step, ...]) -> dict[str, str]:
    """Answer each question on the path: a number by the largest that its branch covers."""
    return {
        step.question.name: str(step.branch.up_to or 5000) if step.question.is_number else step.branch.answer
        for step in path
    }


EXPECTED = {
    "classification/iid/resnet/1-4/yes": "bn",
    "classification/iid/resnet/1-4/no": "gn+ws",
    "classification/iid/resnet/5-15": "bn",
    "classification/iid/resnet/16-1023": "bn",
    "classification/iid/resnet/1024+": "ghost_bn",
    "classification/iid/preact/1-4": "evonorm_s0",
    "classification/iid/preact/5-15": "bn",
    "classification/iid/preact/16-1023": "bn",
    "classification/iid/preact/1024+": "ghost_bn",
    "classification/iid/convnext": "ln2d",
    "classification/iid/no-norm": "none",
    "classification/transfer": "gn+ws",
    "classification/shifted": "ibn",
    "classification/corrupted": "bn",
    "classification/streaming": "gn",
    "classification/private": "gn",
    "classification/federated": "gn",
    "classification/unknown": "sn",
    "detection/yes/1-15/yes": "bn",
    "detection/yes/1-15/no": "gn",
    "detection/yes/16+": "bn",
    "detection/no/1-15": "gn",
    "detection/no/16+": "bn",
    "style": "in",
    "sequence": "ln",
    "generation/image": "in",
    "generation/noise": "gn",
}


def test_the_tree_has_exactly_these_ways() -> None:
    assert {name_of(path): leaf(path).norm for path in PATHS} == EXPECTED


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_answers_lead_to_the_leaf(path: tuple[Step, ...]) -> None:
    result = walk(answers(path))
    assert result.end is leaf(path)
    assert [step.branch for step in result.steps] == [step.branch for step in path]
    unanswered = dict(list(answers(path).items())[:-1])
    assert walk(unanswered).end is path[-1].question


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_every_norm_named_exists_and_every_result_is_known(path: tuple[Step, ...]) -> None:
    recommendation = leaf(path)
    for norm in (recommendation.norm, *recommendation.also, *(norm for norm, _ in recommendation.avoid)):
        base, plus, weight = norm.partition("+")
        assert base in MODELS[recommendation.model].family.norms
        assert not plus or weight in WEIGHTS
        assert full_name(norm, recommendation.model)
    assert recommendation.evidence
    assert set(recommendation.evidence) <= set(EVIDENCE)
    assert recommendation.norm not in recommendation.also
    assert recommendation.model in MODELS


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_config_lines_are_valid_and_build(path: tuple[Step, ...]) -> None:
    recommendation = leaf(path)
    config = yaml.safe_load(config_lines(recommendation, 2))
    ExperimentConfig.model_validate({**config, "name": "tried"}) if "model" in config else None
    norms = [NormConfig.model_validate({"name": norm} if isinstance(norm, str) else norm) for norm in config["norms"]]
    assert "bn" in {norm.name for norm in norms}
    assert NormConfig(name=recommendation.norm, options=recommendation.options) == norms[-1]
    model = config.get("model", "stylenet")
    with torch.device("meta"):
        for norm in norms:
            build_model(model, norm=MODELS[model].family.make(norm.name, **norm.options))


def test_the_command_carries_norm_options_and_model() -> None:
    recommendation = walk({"task": "classification", "data": "iid", "architecture": "preact", "batch-size": "2"}).end
    assert isinstance(recommendation, Recommendation)
    expected = "normbench train --norm evonorm_s0 --norm-option group_size=16 --model preact_resnet18"
    assert command(recommendation) == expected
    assert command(recommendation, 2) == f"{expected} --batch-size 2 --set lr_scaling=sqrt"


def test_what_evidence_says_for_two_images_of_a_detector() -> None:
    """GN is ahead of frozen BN in every source; with several devices SyncBN keeps the BN backbone."""
    asked = {"task": "detection", "pretrained": "yes", "batch-size": "2"}
    assert isinstance(walk(asked).end, Question)
    for distributed, norm in {"yes": "bn", "no": "gn"}.items():
        result = walk({**asked, "distributed": distributed})
        assert isinstance(result.end, Recommendation)
        assert (result.end.norm, result.batch_size({**asked, "distributed": distributed})) == (norm, 2)
        assert "SyncBN" in result.end.form or norm == "gn"
        assert "frozen_bn" in dict(result.end.avoid)
        assert result.end.model == "norm_resnet"  # of docs/results/batch_size.md, where BN loses at 2


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_our_own_records_come_first(path: tuple[Step, ...]) -> None:
    own = [key.startswith("own_") for key in leaf(path).evidence]
    assert own == sorted(own, reverse=True)


def test_style_and_sequences_are_tried_on_their_own_networks() -> None:
    style, sequence = (walk({"task": task}).end for task in ("style", "sequence"))
    assert isinstance(style, Recommendation)
    assert isinstance(sequence, Recommendation)
    assert command(style) == "normbench stylize train --norm in"
    assert compare_command(style) == "normbench stylize compare FILE"
    assert command(sequence) == "normbench train --norm ln --model vit"


@pytest.mark.parametrize(
    ("size", "answer"),
    [(1, "1-4"), (4, "1-4"), (5, "5-15"), (15, "5-15"), (16, "16-1023"), (1023, "16-1023"), (1024, "1024+")],
)
def test_batch_sizes_fall_into_their_range(size: int, answer: str) -> None:
    question = walk({"task": "classification", "data": "iid", "architecture": "preact"}).end
    assert not isinstance(question, Recommendation)
    assert choose(question, str(size)).answer == answer


def test_wrong_answers_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'detection'"):
        walk({"task": "detecting"})
    with pytest.raises(ConfigError, match="whole number"):
        walk({"task": "classification", "data": "iid", "architecture": "preact", "batch-size": "none"})


def test_a_question_asked_twice_on_a_way_would_be_answered_blindly() -> None:
    for path in PATHS:
        names = [step.question.name for step in path]
        assert len(names) == len(set(names))
    assert set(questions()) == {
        "task", "data", "architecture", "batch-size", "distributed", "pretrained", "source"
    }  # fmt: skip


def test_every_result_is_used_and_says_where_it_stands() -> None:
    used = {key for path in PATHS for key in leaf(path).evidence}
    assert used == set(EVIDENCE)
    for evidence in EVIDENCE.values():
        assert re.search(r"arXiv \d{4}\.\d{5}|README|code of|/|report|documentation|\.csv", evidence.source)


def test_advice_needs_no_torch() -> None:
    code = (
        "import sys; from normbench.cli.advise import advise; "
        "from normbench.advice import walk, own_runs; walk.walk({}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
