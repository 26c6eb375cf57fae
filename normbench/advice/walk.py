"""Walking the tree: from answers to a recommendation, or to the next question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from normbench.advice.tree import TREE, Branch, Question, Recommendation
from normbench.errors import ConfigError, UnknownNameError
from normbench.models import MODELS
from normbench.norms import WEIGHTS


@dataclass(frozen=True)
class Step:
    """One question on the way, and the branch taken."""

    question: Question
    branch: Branch


@dataclass(frozen=True)
class Walk:
    """How far the answers lead: to a recommendation, or to a question that they leave open."""

    steps: tuple[Step, ...]
    end: Question | Recommendation

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the questions on the way."""
        return tuple(step.question.name for step in self.steps)

    def batch_size(self, answers: Mapping[str, str]) -> int | None:
        """Return the batch size among `answers` if it was asked for on the way."""
        return int(answers["batch-size"]) if "batch-size" in self.asked else None


_SCALING = "sqrt"
"""How the learning rate of a command follows its batch size: the rule for Adam, the default optimizer."""

STYLENET = "stylenet"
"""The model that `normbench stylize` trains."""


def walk(answers: Mapping[str, str], start: Question | Recommendation = TREE) -> Walk:
    """Follow `answers`, by question name, from `start`; those to questions not on the way are not looked at.

    Raises:
        ConfigError: an answer is none of the question's.
    """
    steps: list[Step] = []
    node = start
    while isinstance(node, Question) and node.name in answers:
        branch = choose(node, answers[node.name])
        steps.append(Step(node, branch))
        node = branch.then
    return Walk(tuple(steps), node)


def remaining(answers: Mapping[str, str], node: Question | Recommendation = TREE) -> Question | Recommendation:
    """Return the tree below `node` without the questions that `answers` answers, and without what they rule out.

    Raises:
        ConfigError: an answer is none of its question's.
    """
    if isinstance(node, Recommendation):
        return node
    if node.name in answers:
        return remaining(answers, choose(node, answers[node.name]).then)
    return replace(
        node, branches=tuple(replace(branch, then=remaining(answers, branch.then)) for branch in node.branches)
    )


def choose(question: Question, answer: str) -> Branch:
    """Return the branch of `question` that `answer` names, or for a number the one that covers it.

    Raises:
        ConfigError: there is none; the message lists the answers.
    """
    if question.is_number:
        if not answer.isdecimal() or int(answer) < 1:
            raise ConfigError(f"--{question.name} {answer!r} must be a whole number >= 1")
        return next(branch for branch in question.branches if branch.up_to is None or int(answer) <= branch.up_to)
    for branch in question.branches:
        if branch.answer == answer:
            return branch
    raise UnknownNameError(f"--{question.name}", answer, [branch.answer for branch in question.branches])


def paths(start: Question = TREE) -> Iterator[tuple[Step, ...]]:
    """Yield the steps of every way from `start` to a recommendation."""
    for branch in start.branches:
        step = Step(start, branch)
        if isinstance(branch.then, Recommendation):
            yield (step,)
        else:
            yield from ((step, *rest) for rest in paths(branch.then))


def recommendations(start: Question = TREE) -> list[Recommendation]:
    """Return every recommendation below `start`, as often as a way leads to it."""
    return [then for path in paths(start) if isinstance(then := path[-1].branch.then, Recommendation)]


def questions(start: Question = TREE) -> dict[str, list[str]]:
    """Return every question's name with the answers that it takes anywhere in the tree."""
    found: dict[str, list[str]] = {}
    for path in paths(start):
        for step in path:
            answers = found.setdefault(step.question.name, [])
            if step.branch.answer not in answers:
                answers.append(step.branch.answer)
    return found


def norm_entry(norm: str, options: Mapping[str, object]) -> str:
    """Return the norm as one entry of a config's ``norms``: ``gn+ws`` or ``{name: gn, options: {groups: 8}}``."""
    if not options:
        return norm
    values = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"{{name: {norm}, options: {{{values}}}}}"


def config_lines(recommendation: Recommendation, batch_size: int | None = None) -> str:
    """Return the lines of a config that compare the recommended norm with bn and the alternatives."""
    others = [norm for norm in dict.fromkeys(("bn", *recommendation.also)) if norm != recommendation.norm]
    entries = ", ".join([*others, norm_entry(recommendation.norm, recommendation.options)])
    lines = [f"norms: [{entries}]"]
    if recommendation.model != STYLENET:
        lines.insert(0, f"model: {recommendation.model}")
    if batch_size is not None:
        lines += [f"train: {{batch_size: {batch_size}}}", f"lr_scaling: {_SCALING}"]
    return "\n".join(lines)


def command(recommendation: Recommendation, batch_size: int | None = None) -> str:
    """Return the command that tries the recommended norm alone, at `batch_size` with the learning rate that fits it."""
    options = "".join(f" --norm-option {name}={value}" for name, value in recommendation.options.items())
    if recommendation.model == STYLENET:
        return f"normbench stylize train --norm {recommendation.norm}{options}"
    size = "" if batch_size is None else f" --batch-size {batch_size} --set lr_scaling={_SCALING}"
    return f"normbench train --norm {recommendation.norm}{options} --model {recommendation.model}{size}"


def compare_command(recommendation: Recommendation) -> str:
    """Return the command that takes a file with `config_lines`."""
    return "normbench stylize compare FILE" if recommendation.model == STYLENET else "normbench compare FILE"


def full_name(norm: str, model: str) -> str:
    """Return a norm's full name in `model`: ``Group Normalization with Weight Standardization`` for ``gn+ws``."""
    norms = MODELS[model].family.norms
    base, plus, weight = norm.partition("+")
    return f"{norms[base].full_name} with {WEIGHTS[weight].full_name}" if plus else norms[base].full_name
