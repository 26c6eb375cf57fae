"""``normbench advise``: which norm to choose, and why. Needs no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.completion import run_folders
from normbench.cli.options import JsonOption, RunsDirOption

if TYPE_CHECKING:
    from normbench.advice.tree import Question, Recommendation
    from normbench.advice.walk import Walk
    from normbench.bench.results import InferResults


def advise(
    task: Annotated[str | None, typer.Option(help="classification, detection, style, sequence or generation.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="iid, transfer, shifted, corrupted, streaming, private, federated or unknown."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="resnet, preact, convnext or no-norm.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per device per step.")] = None,
    distributed: Annotated[
        bool | None,
        typer.Option("--distributed/--no-distributed", help="Several devices, 16 or more images in total."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="A detector's backbone comes trained with BN."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="What a generator starts from: image or noise.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Print the whole decision tree with its evidence.")] = False,
    runs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Add the results of your own experiment.", autocompletion=run_folders),
    ] = None,
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """Say which norm to choose for a task, why, and how to try it.

    Asks for what the flags leave open on a terminal; elsewhere it prints that part of the decision tree.

    Example: normbench advise --task classification --data iid --architecture resnet --batch-size 4 --no-distributed
    """
    from normbench.advice.tree import TREE, Recommendation
    from normbench.advice.walk import walk
    from normbench.cli.advise_screen import print_in_use, print_recommendation, print_tree
    from normbench.cli.console import note

    given = {
        "task": task,
        "data": data,
        "architecture": architecture,
        "batch-size": None if batch_size is None else str(batch_size),
        "distributed": _yes_no(distributed),
        "pretrained": _yes_no(pretrained),
        "source": source,
    }
    answers = {name: answer for name, answer in given.items() if answer is not None}
    _check_answers(answers)
    can_ask = sys.stdin.isatty() and sys.stdout.isatty() and not json_output
    if tree or (not answers and not can_ask):
        if json_output:
            _print_json(_tree_as_json(TREE))
        else:
            print_tree()
        return
    result = walk(answers)
    while not isinstance(result.end, Recommendation):
        if not can_ask:
            _tell_what_is_open(result, answers, result.end, json_output=json_output, runs_dir=runs_dir)
            return
        answers[result.end.name] = _ask(result.end)
        result = walk(answers)
    for name in answers:
        if name not in result.asked:
            note(f"not asked on this path: --{name}")
    own = []
    if runs is not None:
        from normbench.advice.own_runs import own_results

        own = list(own_results(runs))
    if json_output:
        _print_json({**_as_json(result, answers), "runs": [asdict(row) for row in own]})
    else:
        print_recommendation(result, answers, result.end, own)
        if (found := _measured_in_use(runs_dir)) is not None:
            print_in_use(result.end, *found)


def _tell_what_is_open(
    result: Walk, answers: dict[str, str], question: Question, *, json_output: bool, runs_dir: Path
) -> None:
    """Print what is left of the tree, and in the last line what is decided and which flag would answer the next."""
    from normbench.advice.tree import Question
    from normbench.advice.walk import questions, remaining
    from normbench.cli.advise_screen import flag_of, print_in_use, print_open
    from normbench.cli.console import note

    left = remaining(answers, question)
    assert isinstance(left, Question)  # the first question is open
    if json_output:
        _print_json({"path": _path_as_json(result, answers), "recommendation": None, **_tree_as_json(left)})
        return
    print_open(result, answers, left)
    if (found := _measured_in_use(runs_dir)) is not None:
        print_in_use(None, *found)
    used = [name for name in answers if name in result.asked or name in questions(question)]
    for name in answers.keys() - {*used}:
        note(f"not asked on this path: --{name}")
    print(f"\nDecided: {', '.join(flag_of(name, answers[name]) for name in used)}. Still open: {_open_flag(question)}")


def _print_json(found: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": 1, **found}, indent=2))


def _tree_as_json(start: Question) -> dict[str, Any]:
    """Return the tree from `start` on, and the evidence that its leaves name."""
    from normbench.advice.evidence import EVIDENCE
    from normbench.advice.walk import recommendations

    named = {key for found in recommendations(start) for key in found.evidence}
    evidence = {key: asdict(found) for key, found in EVIDENCE.items() if key in named}
    return {"tree": _node_as_json(start), "evidence": evidence}


def _node_as_json(node: Question | Recommendation) -> dict[str, Any]:
    from normbench.advice.tree import Recommendation

    if isinstance(node, Recommendation):
        return asdict(node)
    branches = [{"answer": b.answer, "label": b.label, "then": _node_as_json(b.then)} for b in node.branches]
    return {"question": node.name, "asks": node.asks, "branches": branches}


def _as_json(result: Walk, answers: dict[str, str]) -> dict[str, Any]:
    from normbench.advice.evidence import EVIDENCE
    from normbench.advice.tree import Recommendation
    from normbench.advice.walk import command, config_lines

    assert isinstance(result.end, Recommendation)
    return {
        "path": _path_as_json(result, answers),
        "recommendation": {**asdict(result.end), "evidence": [asdict(EVIDENCE[key]) for key in result.end.evidence]},
        "command": command(result.end, result.batch_size(answers)),
        "config": config_lines(result.end, result.batch_size(answers)),
    }


def _path_as_json(result: Walk, answers: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"question": step.question.name, "answer": answers[step.question.name], "branch": step.branch.label}
        for step in result.steps
    ]


def _measured_in_use(runs_dir: Path) -> tuple[InferResults, str] | None:
    """Return the newest benchmark of networks in use under `runs_dir`, and its folder; None where there is none."""
    from normbench.bench.folder import read_results
    from normbench.bench.results import InferResults
    from normbench.errors import RunError

    for folder in sorted(runs_dir.glob("bench-infer-*"), reverse=True):
        try:
            results = read_results(folder)
        except RunError:
            continue
        if isinstance(results, InferResults):
            return results, str(folder)
    return None


def _check_answers(answers: dict[str, str]) -> None:
    """Refuse an answer that no question of the tree takes, whether or not it is on the way."""
    from normbench.advice.walk import questions
    from normbench.errors import UnknownNameError

    known = questions()
    for name, answer in answers.items():
        if name != "batch-size" and answer not in known[name]:
            raise UnknownNameError(f"--{name}", answer, known[name])


def _open_flag(question: Question) -> str:
    """Return the flag that answers a question, what it takes, and the question."""
    answers = [branch.answer for branch in question.branches]
    if question.is_number:
        flag = f"--{question.name} NUMBER"
    elif answers == ["yes", "no"]:
        flag = f"--{question.name} or --no-{question.name}"
    else:
        flag = f"--{question.name} {'|'.join(answers)}"
    return f"{flag} ({question.asks})"


def _ask(question: Question) -> str:
    """Ask on the terminal until the answer is one of the question's: its name, or its number in the list."""
    from normbench.advice.walk import choose
    from normbench.errors import ConfigError

    print(f"\n{question.asks}")
    if not question.is_number:
        width = max(len(branch.answer) for branch in question.branches)
        for number, branch in enumerate(question.branches, 1):
            print(f"  {number}  {branch.answer:<{width}}  {branch.label}")
    while True:
        answer = str(typer.prompt("Number" if question.is_number else "Answer")).strip().lower()
        if not question.is_number and answer.isdecimal() and 1 <= int(answer) <= len(question.branches):
            answer = question.branches[int(answer) - 1].answer
        try:
            choose(question, answer)
        except ConfigError as error:
            print(error)
        else:
            return answer


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
