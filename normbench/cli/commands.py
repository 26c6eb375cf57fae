"""All commands: their list, which imports none of them, and the import of the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperGroup

HEADINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Run": {
            "demo": ("Compare four norms on built-in images with three seeds: no data set, no GPU, a minute or two."),
            "compare": "Compare norms: train each with each seed, then draw curves and tables.",
            "train": (
                "Train a network with one norm and one or more seeds, by the tutorial's protocol unless told otherwise."
            ),
            "retry": (
                "Run a recorded experiment again: runs that failed or diverged anew, interrupted ones from where "
                "they stopped."
            ),
            "evaluate": "Evaluate trained networks: calibration, classes, statistics, corruptions.",
            "stylize": "Style transfer: train, compare norms, apply.",
            "cluster": "Show a Ray cluster's nodes: GPUs, versions, how many runs fit, what differs.",
            "bench": "Measure speed: training steps, layers alone, or networks in use.",
        },
        "Read what is recorded": {
            "ls": "List the experiments under a folder: runs by state, size on disk, when last run.",
            "show": "Show one run: state, results, config, environment and files.",
            "table": "Print the comparison tables of recorded experiments.",
            "report": "Write report.html, tables and figures over what is recorded; trains nothing.",
            "plots": "Redraw every plot and table under a folder from what is recorded; trains nothing.",
        },
        "Share and check": {
            "bundle": (
                "Pack an experiment into one file: records, report, versions, citation, checksums; the same "
                "input, the same bytes."
            ),
            "verify": "Check a bundle: checksums, consistency of the records, and every table again from the records.",
            "merge": "Join parts of an experiment that were run apart: other norms, other seeds, other devices.",
            "publish": "Verify a bundle and publish it; without --yes nothing is sent.",
        },
        "Choose": {
            "list": "List norms, models, datasets or configs.",
            "inspect": (
                "Feed a tensor of uniform numbers through norms: what they average over, learn, remember and keep"
                " for backward."
            ),
            "check": "Check a norm of your own: shapes, dtypes, gradients, batches, checkpoints, compiler, CUDA graph.",
            "advise": "Say which norm to choose for a task, why, and how to try it.",
        },
        "Set up": {
            "new": "Write a commented file with a norm or a network that works, to be changed.",
            "configs": "List the built-in configs, or copy one to change it.",
            "data": "Find, download or import CIFAR-10 or CIFAR-100.",
            "env": "Print versions, device and CPU: what to paste into a bug report.",
        },
    }
)
"""Every command by the heading under which it is listed, with the first line of its own help."""

_COMMANDS = {name: words for commands in HEADINGS.values() for name, words in commands.items()}
_FILES = {"list": "listing"}
"""The command's file in this folder, where it is not called like the command."""


class _Loaded(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        module = vars(import_module(f"normbench.cli.{_FILES.get(name, name)}"))
        parent = typer.Typer()
        if "app" in module:  # with commands of its own
            parent.add_typer(module["app"], name=name)
        else:
            parent.command(name)(module[name])
        return typer.main.get_group(parent).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class Commands(TyperGroup):
    """The program. Its own help is plain text: importing what draws boxes takes longer than all else."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded()  # type: ignore[assignment]  # nothing is added to it

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the list."""
        return list(_COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the whole program."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, under headings."""
        width = max(map(len, _COMMANDS))
        for heading, commands in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), words) for name, words in commands.items()])
