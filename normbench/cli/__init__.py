"""The command line: one file per command, which parses, calls and prints.

A command's file is imported when the command is asked for. Nothing here imports torch at start.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from normbench.cli.commands import Commands
from normbench.errors import EnvironmentProblem, NormBenchError
from normbench.experiment.interrupts import exit_on_signals
from normbench.version import __version__

_EPILOG = (
    "Exit codes: 0 all done, by whichever process; 1 a run failed, diverged or was left undone; "
    "2 wrong usage or config; 3 no data, no device, or a folder or report that cannot be written; "
    "129 terminal closed; 130 Ctrl-C; 131 quit; 143 terminated."
)
_PATH_ERRORS = frozenset({errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM, errno.EROFS})
"""What is wrong with a path that a user gave, and never a bug: it is told without a traceback."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Compare normalization layers on CIFAR-10: fair runs, error bars, curves and tables.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},  # which all commands inherit
)


def _version(show: bool) -> None:
    if show:
        print(f"normbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare normalization layers on CIFAR-10: fair runs, error bars, curves and tables."""


def main() -> None:
    """Run the command line: a user's problem is its message and exit code, a bug keeps its traceback."""
    exit_on_signals()
    try:
        app(prog_name="normbench")  # also where it is `python -m normbench`
    except NormBenchError as error:
        print(f"normbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        from normbench.own_code import describe, place_of

        if (place := place_of(error)) is not None:  # no bug of NormBench's: it passed through code of the user's own
            print(f"normbench: {NormBenchError(f'{place}: {describe(error)}')}", file=sys.stderr)
            sys.exit(NormBenchError.exit_code)
        if not isinstance(error, OSError):
            raise
        if error.errno not in _PATH_ERRORS or error.filename is None:
            raise
        print(f"normbench: {EnvironmentProblem(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        sys.exit(EnvironmentProblem.exit_code)
