"""``normbench inspect``: the effect of norms on one tensor, or on a sequence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from normbench.cli.completion import norm_names
from normbench.cli.options import JsonOption

if TYPE_CHECKING:
    from normbench.inspection.measure import Shape
    from normbench.norms import AnyNormFactory, NormFactory

Factory = TypeVar("Factory", bound="AnyNormFactory")


def inspect(
    norms: Annotated[
        list[str] | None,
        typer.Argument(metavar="NORM", help="Norms to look at; all if left out.", autocompletion=norm_names),
    ] = None,
    norm_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the norms that have it, such as groups=2."),
    ] = None,
    shape: Annotated[str, typer.Option(metavar="N,C,H,W", help="Shape of the tensor.")] = "4,4,32,32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tensor's numbers.")] = 0,
    against: Annotated[
        str | None,
        typer.Option(metavar="NORM", help="Show one norm and this one side by side.", autocompletion=norm_names),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only draw which of N, C, H, W each norm averages over, as .png or .pdf."),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence", help="Show what batching and padding do to a sequence under the norms of transformers."
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Feed a tensor of uniform numbers through norms: what they average over, learn, remember and keep for backward.

    Examples: normbench inspect bn ln in gn; normbench inspect custom_bn --against bn; normbench inspect --sequence;
    normbench inspect --plot axes.png
    """
    from normbench.errors import ConfigError
    from normbench.norms import NORMS
    from normbench.worker.own import named_norm

    if sequence:
        if against is not None or plot is not None:
            raise ConfigError("--sequence goes with neither --against nor --plot")
        _inspect_sequences(norms, norm_option or [], seed, json_output)
        return
    names = norms or list(NORMS)
    factories = _factories(named_norm, names, norm_option or [])
    if plot is not None:
        from normbench.inspection.picture import draw_norms

        draw_norms(names, plot, {factory.name: factory.norm for factory in factories})
        print(plot)
        return
    sizes = _parse_shape(shape)
    if against is None:
        _inspect(factories, sizes, seed, json_output, all_of_them=not norms)
        return
    if norms is None or len(norms) != 1:
        raise ConfigError("--against compares one norm with another: normbench inspect custom_bn --against bn")
    from normbench.cli.inspect_tables import print_agreement
    from normbench.inspection.agreement import compare_norms

    agreement = compare_norms(factories[0], named_norm(against), sizes, seed=seed)
    if json_output:
        print(
            json.dumps({"schema_version": 1, "seed": seed, **asdict(agreement), "agrees": agreement.agrees}, indent=2)
        )
    else:
        print_agreement(agreement)


def _inspect(factories: list[NormFactory], shape: Shape, seed: int, json_output: bool, *, all_of_them: bool) -> None:
    """Measure and print; a norm of the whole registry that does not fit the shape is a line, a named one an error."""
    from normbench.cli.inspect_tables import print_inspections
    from normbench.errors import ConfigError
    from normbench.inspection.measure import inspect_norm

    inspections, refusals = [], []
    for factory in factories:
        try:
            inspections.append(inspect_norm(factory, shape, seed=seed))
        except ConfigError as error:
            if not all_of_them:
                raise
            refusals.append(str(error))
    if json_output:
        rows = [asdict(inspection) for inspection in inspections]
        print(json.dumps({"schema_version": 1, "seed": seed, "norms": rows, "refused": refusals}, indent=2))
    else:
        print_inspections(inspections, refusals)


def _inspect_sequences(norms: list[str] | None, options: list[str], seed: int, json_output: bool) -> None:
    from normbench.cli.inspect_tables import print_sequence_changes
    from normbench.inspection.sequences import measure_sequences
    from normbench.norms import SEQUENCE_NORMS
    from normbench.worker.own import named_sequence_norm

    factories = _factories(named_sequence_norm, norms or list(SEQUENCE_NORMS), options)
    changes = [change for factory in factories for change in measure_sequences(factory, seed=seed)]
    if json_output:
        rows = [asdict(change) | {"is_independent": change.is_independent} for change in changes]
        print(json.dumps({"schema_version": 1, "seed": seed, "sequences": rows}, indent=2))
    else:
        print_sequence_changes(changes)


def _factories(make: Callable[..., Factory], names: list[str], options: list[str]) -> list[Factory]:
    """Build a factory for each name, with those of the given options that it has; each option must have a taker."""
    from normbench.config.load import parse_options
    from normbench.errors import UnknownNameError

    given = parse_options("--norm-option", options)
    known = {option for name in names for option in make(name).norm.options}
    for option in given:
        if option not in known:
            raise UnknownNameError("--norm-option", option, sorted(known))
    factories = []
    for name in names:
        own = {option: value for option, value in given.items() if option in make(name).norm.options}
        factories.append(make(name, **own))
    return factories


def _parse_shape(text: str) -> Shape:
    """Read ``4,4,32,32``."""
    from normbench.config.bounds import check_memory, parse_count
    from normbench.errors import ConfigError

    match [parse_count(size) for size in text.split(",")]:
        case [int(samples), int(channels), int(height), int(width)]:
            check_memory(12 * samples * channels * height * width, f"--shape {text}: a norm with its gradients")
            return samples, channels, height, width
    raise ConfigError(f"--shape {text!r} must be four whole numbers from 1, N,C,H,W, such as 4,4,32,32")
