"""The program's start: signals are taken care of before anything is imported that takes time."""

from __future__ import annotations

import gc

from normbench.experiment.interrupts import exit_on_signals, ignore_signals


def main() -> None:
    """Run the command line; a signal ends it without a traceback, whatever is being imported."""
    try:
        exit_on_signals()
        from normbench.cli import main as run

        run()
    except KeyboardInterrupt:  # where the command line is still being put together, nothing else takes it
        raise SystemExit(130) from None
    finally:
        ignore_signals()
        gc.freeze()  # looking for garbage in what ends anyway takes a tenth of a second or more


if __name__ == "__main__":
    main()
