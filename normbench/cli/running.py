"""Carries out what `train`, `compare` and `stylize` parsed: a dry run, or the runs with their tables on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer


def execute(
    source: Path | None,
    settings: Sequence[str],
    flags: Mapping[str, Any],
    *,
    default_name: str | None,
    max_runs: int,
    dry_run: bool,
    json_output: bool,
    cluster: Any = None,
    **options: Any,
) -> None:
    """Load the config, run it, and exit; `options` are those of `RunOptions`, `cluster` is a `ClusterOptions` or None.

    With 0 if every run is completed, whichever process did it, and the report is written; with 1 if a run is not.
    """
    from normbench.experiment.worker_process import start_worker

    with ExitStack() as stack:
        # First: the imports below take time, and its own take more.
        worker = stack.enter_context(start_worker()) if cluster is None else None
        from normbench.cli.dry_run import print_dry_run
        from normbench.config.load import load_config
        from normbench.experiment.execute import RunOptions, plan_experiment, run_experiment
        from normbench.experiment.site import open_site
        from normbench.experiment.tuning import is_tuned, plan_tuned, tuning_of

        loaded = load_config(source, settings=settings, flags=flags, default_name=default_name, max_runs=max_runs)
        run_options = RunOptions(**options)
        site = stack.enter_context(open_site(cluster, loaded, worker))
        if dry_run:
            if is_tuned(loaded):  # what follows it is known when it is done
                loaded = tuning_of(loaded)
            plans = plan_experiment(loaded, site.process, run_options.data_dir)
            folder = run_options.runs_dir / loaded.experiment.name
            force, retry = run_options.force, run_options.retry
            print_dry_run(
                folder, run_options.chosen(plans), force=force, retry=retry, json_output=json_output,
                place=getattr(site, "placement", None),
            )  # fmt: skip
            return
        plans = plan_tuned(loaded, site, run_options)
        result = run_experiment(
            loaded, plans, run_options, site, on_report=lambda comparison: _print(comparison, json_output=json_output)
        )
    if not result.is_complete:
        raise typer.Exit(1)
    raise typer.Exit(result.report_error.exit_code if result.report_error else 0)


def _print(comparison: Any, *, json_output: bool) -> None:
    """Print the tables, and where everything is."""
    from normbench.cli.console import note, print_comparison, print_sensitivities
    from normbench.tasks.style_transfer import MODEL_FILE

    if json_output:
        print(comparison.table("json"), end="")
    else:
        for table in comparison.report.tables:
            print_comparison(table)
        if comparison.report.sensitivities:
            print()
            print_sensitivities(comparison.report.sensitivities)
    say = note if json_output else print
    for run_id in comparison.run_ids:
        if (model := comparison.folder / run_id / MODEL_FILE).is_file():
            say(str(model))
    say(f"\nThe page: {comparison.report_path} (figures and tables are beside it)")
