"""The tables of ``normbench inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from normbench.cli import console
from normbench.cli.console import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.inspection.agreement import Agreement
    from normbench.inspection.measure import Inspection, Range
    from normbench.inspection.sequences import SequenceChange

NEAR_ZERO = 5e-4
ROUNDING = 1e-6
"""Means as small as this of numbers near 1 are rounding errors of float32."""


def print_inspections(inspections: Sequence[Inspection], refusals: Sequence[str]) -> None:
    """Print what each norm does to its output, what it holds, and what evaluation changes."""
    if inspections:
        _print_moments(inspections)
        _print_holdings(inspections)
    if any(inspection.evaluation for inspection in inspections):
        _print_evaluation(inspections)
    if refusals:
        _notes("Left out:", refusals)


def _print_moments(inspections: Sequence[Inspection]) -> None:
    samples, channels, height, width = inspections[0].shape
    table = _table(
        f"Output in training, for an input of shape ({samples}, {channels}, {height}, {width}), uniform on [0, 1)",
        "norm", "over", "values", "mean", "variance", "unbiased", "mean square",
    )  # fmt: skip
    for inspection in inspections:
        for row, moments in enumerate(inspection.output):
            table.add_row(
                "" if row else inspection.norm,
                moments.axes,
                str(moments.num_values),
                _range(moments.mean),
                _range(moments.variance),
                _range(moments.unbiased_variance) if moments.unbiased_variance else "-",
                _range(moments.mean_square),
            )
    print_table(table)
    _notes("", [*_explain_moments(inspections)])


def _explain_moments(inspections: Sequence[Inspection]) -> Iterator[str]:
    """Yield what the numbers of the first table mean, as far as these norms need it."""
    yield "a…b: lowest and highest over all sets of values that share a statistic; `values` is the size of one set."
    moments_of = [(inspection.norm, moments) for inspection in inspections for moments in inspection.output]
    centered = {moments.num_values: norm for norm, moments in reversed(moments_of) if _is_near(moments.mean, 0)}
    if ratios := [f"{m}/{m - 1} = {m / (m - 1):.5f} ({norm})" for m, norm in sorted(centered.items()) if m > 1]:
        yield (
            "variance: the biased one, divided by m values. Norms divide by its root, so it comes out as "
            "var / (var + eps), just below 1. The unbiased one, divided by m - 1, is larger by m / (m - 1): "
            f"{', '.join(ratios[:3])}."
        )
    rms = [norm for norm, moments in moments_of if _is_near(moments.mean_square, 1) and not _is_near(moments.mean, 0)]
    if rms:
        yield f"Divided by the root mean square, without subtracting the mean: {', '.join(dict.fromkeys(rms))}."
    if with_activation := [inspection.norm for inspection in inspections if inspection.replaces_activation]:
        yield f"With their own activation in this output: {', '.join(with_activation)}."


def _is_near(values: Range, target: float) -> bool:
    """Return whether all values are within a hundredth of `target`."""
    return max(abs(values.low - target), abs(values.high - target)) < 0.01


def _print_holdings(inspections: Sequence[Inspection]) -> None:
    table = _table("What it holds", "norm", "learned", "state", "kept for backward (x input)")
    for inspection in inspections:
        table.add_row(
            inspection.norm,
            f"{inspection.num_parameters}: {_shapes(inspection.parameters)}" if inspection.parameters else "-",
            _shapes(inspection.state) or "-",
            f"{inspection.kept_bytes / 1024:.1f} KiB ({inspection.kept_bytes / inspection.input_bytes:.2f})",
        )
    print_table(table)
    _notes(
        "",
        [
            "kept for backward: what autograd saves in eager mode, each storage once; the input counts, parameters and "
            "buffers do not."
        ],
    )


def _print_evaluation(inspections: Sequence[Inspection]) -> None:
    table = _table(
        "Evaluation mode after one training batch", "norm", "running statistics", "output mean", "output variance"
    )
    for inspection in inspections:
        if inspection.evaluation:
            state = ", ".join(f"{name} {_range(values)}" for name, values in inspection.evaluation.state.items())
            output = inspection.evaluation.output
            table.add_row(inspection.norm, state, _range(output.mean), _range(output.variance))
    print_table(table)
    _notes(
        "",
        [
            "Evaluation normalizes with the running statistics, which start at 0 and 1 and have moved by `momentum` of "
            "the way to one batch's mean and unbiased variance; hence an output that is not yet near 0 and 1."
        ],
    )


def print_sequence_changes(changes: Sequence[SequenceChange]) -> None:
    """Print how much a sequence's output changes with what it is batched and padded with."""
    situations = list(changes[0].in_training)
    table = _table(
        "How much a sequence's output changes when padded or batched with others",
        "norm",
        "in",
        *situations,
        "at evaluation",
    )
    for change in changes:
        table.add_row(
            change.norm,
            change.where,
            *(_change(change.in_training[situation]) for situation in situations),
            _change(max(change.in_evaluation.values())),
        )
    print_table(table)
    lines = [
        "A sequence of random tokens passes through a new layer, and through a new post-norm transformer block whose "
        "attention skips padding: alone, padded with zeros, batched with others, and both. Each number is the largest "
        "change of its own tokens' output, in training mode unless it says otherwise, relative to the largest output; "
        "rounding gives less than 1e-5."
    ]
    for statement, independent in (
        ("A sequence has the same output whatever it is batched and padded with", True),
        ("A sequence's output depends on padding or on the other sequences", False),
    ):
        names = dict.fromkeys(change.norm for change in changes if change.is_independent is independent)
        if names:
            lines.append(f"{statement}: {', '.join(names)}.")
    _notes("", lines)


def _change(value: float) -> str:
    """Write a relative change: ``0``, ``1.4e-07``, ``94 %``."""
    if value == 0:
        return "0"
    return f"{100 * value:.0f} %" if value > 0.005 else f"{value:.1e}"


def print_agreement(agreement: Agreement) -> None:
    """Print two norms side by side, with the largest difference of each tensor."""
    table = _table(
        f"{agreement.left} against {agreement.right}, shape {agreement.shape}",
        "tensor (first values)", agreement.left, agreement.right, "largest difference",
    )  # fmt: skip
    for tensor in agreement.compared:
        table.add_row(
            tensor.quantity,
            _values(tensor.left),
            _values(tensor.right),
            f"{tensor.largest_difference:.1e}{'' if tensor.agrees else '  DIFFERENT'}",
        )
    print_table(table)
    for name, only in ((agreement.left, agreement.only_left), (agreement.right, agreement.only_right)):
        if only:
            _notes("", [f"only in {name}: {', '.join(only)}"])
    worst = max(tensor.largest_difference for tensor in agreement.compared)
    verdict = "equal up to float32 rounding" if agreement.agrees else "not the same"
    _notes("", [f"Largest difference of all: {worst:.1e}. {agreement.left} and {agreement.right} are {verdict}."])


def _table(title: str, *header: str) -> Table:
    table = console.table(*header, title=title)
    table.padding = (0, 1, 0, 0)
    table.columns[0].no_wrap = True
    return table


def _notes(heading: str, lines: Sequence[str]) -> None:
    """Print lines of explanation, wrapped to the terminal."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, 110)
    if heading:
        print(heading)
    for line in lines:
        print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  "))
    print()


def _range(values: Range) -> str:
    """Write ``0.96…1.03``, the middle where both are the same to two decimals, and what is only rounding as 0."""
    low, high = values.low, values.high
    extreme = max(low, high, key=abs)
    if abs(extreme) < ROUNDING:
        return "0"
    if abs(extreme) < NEAR_ZERO:
        return f"{extreme:.0e}"
    if round(low, 2) == round(high, 2):
        return f"{extreme if round(low, 2) == 0 else (low + high) / 2:.4f}"
    return f"{low:.2f}…{high:.2f}"


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or '1'}" for name, shape in shapes.items())


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
