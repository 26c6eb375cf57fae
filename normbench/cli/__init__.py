"""The command line: one file a command, which parses, calls and prints. Nothing here imports torch or matplotlib at start."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import click
import typer
from typer.core import TyperGroup

from normbench import __version__
from normbench.cli import compare, env, listing, plots, train
from normbench.errors import NormBenchError

_EPILOG = (
    "Exit codes: 0 all done; 1 a run failed; 2 wrong usage or config; 3 no data, no device or no writable folder; "
    "130 Ctrl-C; 143 terminated."
)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: end as after Ctrl-C, with another exit code."""


class _Group(TyperGroup):
    """Turns a user's problem into its message and exit code; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NormBenchError as error:
            print(f"normbench: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except Terminated:
            raise typer.Exit(143) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Compare normalization layers on CIFAR-10: fair runs, error bars, curves and tables.",
    epilog=_EPILOG,
)


def _version(show: bool) -> None:
    if show:
        print(f"normbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Compare normalization layers on CIFAR-10: fair runs, error bars, curves and tables."""


app.command()(train.train)
app.command()(compare.compare)
app.command()(plots.plots)
#app.command()(inspect.inspect)
#app.command()(advise.advise)
app.command()(env.env)
app.add_typer(listing.app, name="list")
#app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; SIGTERM ends a run as Ctrl-C does, with a checkpoint."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    app()
