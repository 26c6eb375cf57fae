"""The screens of ``normbench advise``: a recommendation, or the whole tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from normbench.advice.evidence import Evidence
    from normbench.advice.own_runs import NormResult
    from normbench.advice.tree import Question, Recommendation
    from normbench.advice.walk import Walk
    from normbench.bench.results import InferResults

MAX_WIDTH = 100
_BASIS = {"text": "", "abstract": "; abstract or summary", "plot": "; read off a plot"}


def print_recommendation(
    result: Walk, answers: Mapping[str, str], recommendation: Recommendation, own: Sequence[NormResult]
) -> None:
    """Print the norm, the way to it, its evidence, what to avoid, how to try it, and the user's own results."""
    from normbench.advice.evidence import EVIDENCE
    from normbench.advice.walk import STYLENET, command, compare_command, config_lines, full_name

    console = _console()
    details = [f"{name} {value}" for name, value in recommendation.options.items()]
    details += [recommendation.form] if recommendation.form else []
    name = ", ".join([full_name(recommendation.norm, recommendation.model), *details])
    console.print(f"[bold green]{recommendation.norm}[/]  {name}")
    console.print(recommendation.because)
    _print_path(console, "Path", result, answers)
    _heading(console, "Evidence")
    for key in recommendation.evidence:
        _rows(console, "", [("-", _evidence_line(EVIDENCE[key]))])
    _rows(console, "Avoid", recommendation.avoid)
    _rows(console, "Compare with", ((norm, full_name(norm, recommendation.model)) for norm in recommendation.also))
    _heading(console, "Before judging")
    _rows(console, "", [("-", recommendation.hint)])
    on_images = answers["task"] in ("detection", "generation") and recommendation.model != STYLENET
    _heading(console, "Try it, on image classification" if on_images else "Try it")
    lines = f"# or all of them, as lines of a config for `{compare_command(recommendation)}`:"
    batch_size = result.batch_size(answers)
    for line in (command(recommendation, batch_size), "", lines):
        print(f"  {line}".rstrip())
    for line in config_lines(recommendation, batch_size).splitlines():
        print(f"  {line}")
    if own:
        _print_own(console, recommendation.norm, own)


def print_open(result: Walk, answers: Mapping[str, str], left: Question) -> None:
    """Print the way that the answers lead, and what is left of the tree: which norm each open answer would give."""
    console = _console()
    _print_path(console, "Decided", result, answers)
    _heading(console, "Open")
    print_tree(left)


def _print_path(console: Console, heading: str, result: Walk, answers: Mapping[str, str]) -> None:
    steps = ((flag_of(step.question.name, answers[step.question.name]), step.branch.label) for step in result.steps)
    _rows(console, heading, steps)


def flag_of(name: str, answer: str) -> str:
    """Write an answer as the flag that gives it."""
    return {"yes": f"--{name}", "no": f"--no-{name}"}.get(answer, f"--{name} {answer}")


def print_tree(start: Question | None = None) -> None:
    """Print the decision tree from `start` on, all of it if None, and the evidence that its leaves name by number."""
    from rich.tree import Tree

    from normbench.advice.evidence import EVIDENCE
    from normbench.advice.tree import TREE
    from normbench.advice.walk import recommendations

    start = start or TREE
    named = {key for found in recommendations(start) for key in found.evidence}
    numbers = {key: number for number, key in enumerate((key for key in EVIDENCE if key in named), 1)}
    root = Tree(f"[bold]{start.asks}[/] [dim]--{start.name}[/]", guide_style="dim")
    _grow(root, start, numbers)
    console = _console()
    console.print(root)
    _rows(console, "Evidence", ((f"({number})", _evidence_line(EVIDENCE[key])) for key, number in numbers.items()))


def _evidence_line(found: Evidence) -> str:
    return f"{found.text} [dim]({found.source}{_BASIS[found.basis]})[/]"


def _grow(tree: Tree, question: Question, numbers: Mapping[str, int]) -> None:
    from normbench.advice.tree import Recommendation

    for branch in question.branches:
        answer = branch.label if question.is_number else f"{branch.answer}: {branch.label}"
        then = branch.then
        if isinstance(then, Recommendation):
            name = f"[bold green]{then.norm}[/]{f' {then.form}' if then.form else ''}"
            tree.add(f"{answer} → {name} [dim]({', '.join(str(numbers[key]) for key in then.evidence)})[/]")
        else:
            _grow(tree.add(f"{answer}. [bold]{then.asks}[/] [dim]--{then.name}[/]"), then, numbers)


def _print_own(console: Console, recommended: str, own: Sequence[NormResult]) -> None:
    """Print the user's own mean accuracies, a table for each setting."""
    from normbench.cli.console import print_table, table

    settings = dict.fromkeys((row.device, row.setting) for row in own)
    for device, setting in settings:
        title = ", ".join(part for part in (f"Your runs: {own[0].experiment}", setting, device) if part)
        shown = table("norm", "test accuracy (%)", "runs", "", title=title)
        rows = [row for row in own if (row.device, row.setting) == (device, setting)]
        for row in rows:
            spread = "" if row.standard_deviation is None else f" ± {100 * row.standard_deviation:.2f}"
            mark = "recommended above" if row.norm == recommended else ""
            shown.add_row(row.label, f"{100 * row.mean_test_accuracy:.2f}{spread}", str(row.num_runs), mark)
        console.print()
        print_table(shown)
        if recommended not in {row.norm for row in rows}:
            console.print(f"{recommended} is not among these runs.")
    console.print(
        "[dim]± is the standard deviation between seeds; without it there is one run, and no spread is known.[/]"
    )


def print_in_use(recommendation: Recommendation | None, results: InferResults, folder: str) -> None:
    """Print what the recommended norm, bn and those to compare with cost in use, as measured on this machine.

    All norms, where questions are still open.
    """
    from normbench.cli.console import print_table, table

    wanted = None if recommendation is None else {recommendation.norm, "bn", *recommendation.also}
    rows = [row for row in results.rows if row.seconds_per_batch and (wanted is None or row.norm in wanted)]
    if not rows:
        return
    settings = dict.fromkeys((row.precision, row.batch_size) for row in rows)
    headers = [f"batch {batch_size}, {precision} (ms)" for precision, batch_size in settings]
    device = results.environment.get("device_name", "")
    title = f"In use: {results.settings.get('model', '')} on {device}"
    shown = table("norm", "way", *headers, right=headers, title=title)
    times = {(row.norm, row.variant, row.folded, row.precision, row.batch_size): row.ms_per_batch for row in rows}
    for norm, variant, folded in dict.fromkeys((row.norm, row.variant, row.folded) for row in rows):
        found = [times.get((norm, variant, folded, *setting)) for setting in settings]
        cells = ["-" if milliseconds is None else f"{milliseconds:.3g}" for milliseconds in found]
        shown.add_row(norm, f"{variant}{', folded' if folded else ''}", *cells)
    console = _console()
    console.print()
    print_table(shown)
    console.print(f"[dim]From `normbench bench infer`: {folder}[/]")


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _rows(console: Console, heading: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print pairs in two columns, indented, under a heading."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for left, right in rows:
        grid.add_row(f"  {left}", right)
    if grid.row_count:
        if heading:
            _heading(console, heading)
        console.print(grid)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, MAX_WIDTH)
    return console
