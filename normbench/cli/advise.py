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

    Asks for what the flags leave open on a terminal; elsewhere it prints the whole tree if no flag answers a question.

    Example: normbench advise --task classification --data iid --architecture resnet --batch-size 4 --no-distributed
    """
    from normbench.advice.tree import Recommendation
    from normbench.advice.walk import walk
    from normbench.cli.advise_screen import print_in_use, print_recommendation, print_tree
    from normbench.cli.console import note
    from normbench.errors import ConfigError

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
            from normbench.advice.evidence import EVIDENCE

            evidence = {key: asdict(found) for key, found in EVIDENCE.items()}
            print(json.dumps({"schema_version": 1, "tree": tree_as_json(), "evidence": evidence}, indent=2))
        else:
            print_tree()
        return
    result = walk(answers)
    while not isinstance(result.end, Recommendation):
        if not can_ask:
            if not json_output and (found := _measured_in_use(runs_dir)) is not None:
                print_in_use(None, *found)
            raise ConfigError(_still_open(result.end))
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
        print(
            json.dumps(
                {"schema_version": 1, **_as_json(result, answers), "runs": [asdict(row) for row in own]}, indent=2
            )
        )
    else:
        print_recommendation(result, answers, result.end, own)
        if (found := _measured_in_use(runs_dir)) is not None:
            print_in_use(result.end, *found)


def tree_as_json(node: Question | Recommendation | None = None) -> dict[str, Any]:
    """Return the tree below `node` (all of it if None) as nested dictionaries."""
    from normbench.advice.tree import TREE, Recommendation

    node = node or TREE
    if isinstance(node, Recommendation):
        return asdict(node)
    branches = [{"answer": b.answer, "label": b.label, "then": tree_as_json(b.then)} for b in node.branches]
    return {"question": node.name, "asks": node.asks, "branches": branches}


def _as_json(result: Walk, answers: dict[str, str]) -> dict[str, Any]:
    from normbench.advice.evidence import EVIDENCE
    from normbench.advice.tree import Recommendation
    from normbench.advice.walk import command, config_lines

    assert isinstance(result.end, Recommendation)
    return {
        "path": [
            {"question": step.question.name, "answer": answers[step.question.name], "branch": step.branch.label}
            for step in result.steps
        ],
        "recommendation": {**asdict(result.end), "evidence": [asdict(EVIDENCE[key]) for key in result.end.evidence]},
        "command": command(result.end, result.batch_size(answers)),
        "config": config_lines(result.end, result.batch_size(answers)),
    }


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


def _still_open(question: Question) -> str:
    """Return a message on the flag that is missing, and what it takes."""
    if question.is_number:
        return f"still open: --{question.name} NUMBER ({question.asks})"
    answers = [branch.answer for branch in question.branches]
    if answers == ["yes", "no"]:
        return f"still open: --{question.name} or --no-{question.name} ({question.asks})"
    return f"still open: --{question.name} {'|'.join(answers)} ({question.asks})"


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
