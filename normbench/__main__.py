"""The program's start: signals are taken care of before anything is imported that takes time."""

from __future__ import annotations

import gc
import os

from normbench.experiment.interrupts import exit_on_signals, ignore_signals

_ALLOCATIONS_BETWEEN_SEARCHES = 50_000
"""Modules are most of what a command makes, and never garbage: looking for it as often as Python does, every 700
allocations or few more, takes a tenth of a command that only reads."""


def main() -> None:
    """Run the command line; a signal ends it without a traceback, whatever is being imported."""
    try:
        exit_on_signals()
        gc.set_threshold(_ALLOCATIONS_BETWEEN_SEARCHES)
        # NormBench needs no plugins of pydantic, which looks for them in the metadata of every package installed.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        from normbench.cli import main as run

        run()
    except KeyboardInterrupt:  # where the command line is still being put together, nothing else takes it
        raise SystemExit(130) from None
    finally:
        ignore_signals()
        gc.freeze()  # looking for garbage in what ends anyway takes a tenth of a second or more


if __name__ == "__main__":
    main()
