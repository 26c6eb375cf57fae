"""``normbench demo``: a whole comparison on built-in images, and what to try next."""

from __future__ import annotations

from pathlib import Path

import typer

from normbench.cli.options import DeviceOption, RunsDirOption, given
from normbench.config.bounds import MAX_RUNS

_NEXT = """
Try next:
  normbench compare bn gn gn+ws --dataset synthetic --model norm_resnet_small   # norms of your choice
  normbench inspect bn in ln gn                                                 # what each of them averages over
  normbench data fetch && normbench compare tutorial                            # the same on CIFAR-10 (170 MB)"""


def demo(device: DeviceOption = None, runs_dir: RunsDirOption = Path("runs")) -> None:
    """Compare four norms on built-in images with three seeds: no data set, no GPU, a minute or two.

    It is `normbench compare demo`; running it again shows the results, because completed runs are kept.
    """
    from normbench.cli.running import execute
    from normbench.config.built_in import find_config

    try:
        execute(
            find_config("demo"),
            [],
            given({"device": device}),
            default_name="demo",
            max_runs=MAX_RUNS,
            dry_run=False,
            json_output=False,
            runs_dir=runs_dir,
        )
    except typer.Exit as end:
        if end.exit_code == 0:
            print(_NEXT)
        raise
