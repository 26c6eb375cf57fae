"""Carries out an experiment of any task: plan, check, train, time, report. The API and the command line call this."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from normbench.config.load import AnyExperiment, LoadedConfig, load_config
from normbench.config.schema import BaseRunConfig, ExperimentConfig
from normbench.errors import DataError, FolderError, NormBenchError, RunError
from normbench.experiment.baseline import adopt_baseline
from normbench.experiment.comparison import Comparison
from normbench.experiment.drawing import Drawers, reason, usual_count
from normbench.experiment.evaluate_runs import evaluate_runs
from normbench.experiment.executor import TrainingProcess
from normbench.experiment.interrupts import HeldSignals
from normbench.experiment.looks import check_until_resolved, look_at, run_stages, seeds_of, stages
from normbench.experiment.own import find_own
from normbench.experiment.plan import RunPlan, draft_runs, finish_plans, resolved_experiment
from normbench.experiment.progress import Progress, make_progress, note
from normbench.experiment.runner import ExperimentEvent, ExperimentRunner, RunEnded
from normbench.experiment.shards import Shard
from normbench.experiment.site import Site
from normbench.experiment.timing_pass import TimingEvent, TimingPass
from normbench.report import load_libraries, write_report_of, write_run_report
from normbench.runs.bundle_file import exists
from normbench.runs.records import CHECKPOINT_FILE, REPORT_FOLDER, RUN_TABLE_FILE, STATUS_FILE, SUMMARY_FILE
from normbench.runs.timing_file import timing_key
from normbench.runs.writer import is_due, planned_state, sweep, write_experiment
from normbench.tasks import TASKS
from normbench.worker import targets
from normbench.worker.targets import DraftError, EvaluationRequest, RunRequest

if TYPE_CHECKING:
    from normbench.experiment.tracking import Tracking

Listener = Callable[[ExperimentEvent | TimingEvent], None]

_MAX_NORMS_COMPILED_TOGETHER = 12
"""More would let the first run wait for long."""
_MIN_COMPILE_SECONDS_NOTED = 2.0


@dataclass(frozen=True)
class RunOptions:
    """Everything about a call that is not the experiment: where things are, and what to do again."""

    runs_dir: Path = Path("runs")
    data_dir: Path | None = None
    force: bool = False
    retry: bool = False
    keep_checkpoint: bool = False
    tensorboard: bool = False
    wandb: bool = False
    mlflow: bool = False
    max_failures: int | None = None
    baseline_from: Path | None = None
    """A folder or bundle whose runs of the baseline are taken over."""
    max_seeds: int | None = None
    """Add seeds until every verdict is resolved, at most so many; None to run the config's seeds."""
    runs_at_once: int | None = None
    """How many runs a device trains at once, at most; None: as `normbench.experiment.site` chooses."""
    shard: Shard | None = None
    """The part of the runs to be done; None for all of them."""
    times_norms: bool = True
    """Whether the norms' steps are timed against each other after training."""

    def chosen(self, plans: list[RunPlan]) -> list[RunPlan]:
        """Return the runs of `plans` that the call is for."""
        return plans if self.shard is None else self.shard.of(plans)


def plan_experiment(loaded: LoadedConfig, worker: TrainingProcess, data_dir: Path | None = None) -> list[RunPlan]:
    """Return the experiment's runs with nothing left to decide; every norm is built and tried once, on `worker`.

    Code of a user's own is executed on `worker` and nowhere else; images are looked for in `data_dir` too.

    Raises:
        ConfigError: a name is unknown, or a norm cannot be built or does not fit the network.
        DeviceError: the device is not there.
    """
    loaded, own = find_own(loaded, lambda wanted: worker.call(targets.describe_own, wanted), data_dir)
    drafts = draft_runs(loaded, own)
    worker.submit(targets.resolve_runs, drafts)
    load_libraries()  # while the worker imports torch
    try:
        plans = finish_plans(drafts, worker.result())
    except DraftError as error:
        raise loaded.error(("norms", error.norm_position), str(error)) from None
    if len(plans) < len(drafts):
        note(f"normbench: runs left out because they repeat another: {len(drafts) - len(plans)}")
    if any((run.config.device, run.config.train.precision) == ("cpu", "bf16") for run in plans):
        if any(draft.config["train"]["precision"] == "auto" for draft in drafts):
            note("normbench: bf16 on this CPU, which has AMX; --precision fp32 computes in float32")
        elif worker.call(targets.computes_bf16_slowly):
            note("normbench: bf16 on a CPU that has no instructions for it: --precision fp32 is several times as fast")
    return plans


def run_experiment(
    loaded: LoadedConfig,
    plans: list[RunPlan],
    options: RunOptions,
    site: Site,
    *,
    listener: Listener | None = None,
    on_report: Callable[[Comparison], None] = lambda _: None,
) -> Comparison:
    """Train what is due at `site`, time the norms, and report on all that is recorded, whatever happens.

    `listener` is called with every event in place of the display; `on_report` before the report is written to
    disk, also after an interrupt.

    Raises:
        ConfigError: `options.baseline_from` holds no run of the baseline with the experiment's settings.
        DataError: a data set, image or feature network is missing or damaged.
        FolderError: the experiment's folder cannot be written.
        KeyboardInterrupt: Ctrl-C; runs ended their step and saved a checkpoint, and the report is written.
    """
    options = replace(options, data_dir=site.data_dir(options.data_dir))
    folder = options.runs_dir / loaded.experiment.name
    resolved = resolved_experiment(loaded.experiment, plans)
    plans = options.chosen(plans)
    left = stages(plans, options.max_seeds, folder)
    if options.max_seeds is not None:
        check_until_resolved(loaded.experiment, plans, is_shard=options.shard is not None)
    trackers = _trackers(folder, options)
    if options.baseline_from is not None:
        adopted = adopt_baseline(options.baseline_from, folder, plans, loaded.experiment.baseline)
        note(f"normbench: runs of the baseline taken from {options.baseline_from}: {len(adopted)}")
    states = {plan.run_id: planned_state(folder / plan.run_id) for plan in plans}
    due = [plan for plan in plans if is_due(states[plan.run_id], force=options.force, retry=options.retry)]
    prerequisite = _prerequisite(plans[0].config, options, site, train=bool(due))
    evaluate = loaded.experiment.evaluate if isinstance(loaded.experiment, ExperimentConfig) else None
    # First: what this starts for further devices imports torch while the first one checks data and compiles.
    with ExitStack() as stack:
        executor = stack.enter_context(site.executor(due, plans, folder, options.runs_at_once))
        for config in reversed(_by_data(due).values()):  # the last ones stay loaded, and the first run takes the first
            site.process.call(targets.check_data, config, options.data_dir, prerequisite, evaluate)
        _compile_kernels(due, folder, options, site.process, prerequisite)
        first = resolved if options.max_seeds is None else resolved_experiment(loaded.experiment, left[0])
        write_experiment(folder, first)
        sweep(folder)
        drawers = stack.enter_context(Drawers(write_run_report, usual_count() if due else 0))
        shown = listener or make_progress(plans)
        runner = ExperimentRunner(
            folder,
            executor,
            _told([shown, *trackers], folder, drawers),
            options.data_dir,
            options.force,
            options.retry,
            options.keep_checkpoint,
            prerequisite,
            options.max_failures,
            evaluate,
            max_host_losses=site.max_host_losses,
        )
        return _Course(runner, site, loaded.experiment, options, shown, on_report, drawers).finish(left)


def _trackers(folder: Path, options: RunOptions) -> Sequence[Tracking]:
    if not (options.tensorboard or options.wandb or options.mlflow):
        return ()
    from normbench.experiment.tracking import open_trackers

    return open_trackers(folder, tensorboard=options.tensorboard, wandb=options.wandb, mlflow=options.mlflow)


def _told(
    listeners: Sequence[Listener | Progress | Tracking], folder: Path, drawers: Drawers
) -> Callable[[ExperimentEvent], None]:
    """Return a function that tells all `listeners` of an event, and has a run drawn that ended."""

    def tell(event: ExperimentEvent) -> None:
        for listener in listeners:
            listener(event)
        if isinstance(event, RunEnded):
            run_folder = folder / event.plan.run_id
            if not (event.skipped and (run_folder / RUN_TABLE_FILE).exists()):  # it may have been killed in between
                drawers.draw_run(run_folder)

    return tell


@dataclass
class _Course:
    """An experiment from its first run to its report."""

    runner: ExperimentRunner
    site: Site
    experiment: AnyExperiment
    options: RunOptions
    listener: Listener | Progress
    on_report: Callable[[Comparison], None]
    drawers: Drawers
    signals: HeldSignals = field(default_factory=HeldSignals)

    def finish(self, left: Sequence[list[RunPlan]]) -> Comparison:
        """Carry out the stages that are left, and report on whatever they came to."""
        plans, folder = left[0], self.runner.folder
        comparison = Comparison(folder, tuple(plan.run_id for plan in plans), is_complete=False)
        try:
            with self.signals, _shown(self.listener):
                for plans, is_complete in run_stages(left, folder, self.options.max_seeds, self._train):
                    run_ids = tuple(plan.run_id for plan in plans)
                    comparison = replace(comparison, run_ids=run_ids, is_complete=is_complete)
                if not self.runner.has_stopped:
                    self._evaluate_kept(plans)
                    if self.options.times_norms:
                        self._time(plans)
        finally:
            self.runner.executor.dismiss()  # all ends while the report is written
            if not self.signals.is_urgent:
                self._look_at(plans)
                comparison = _report(comparison, self.on_report, self.drawers, tensorboard=self.options.tensorboard)
        return comparison

    def _train(self, stage: Sequence[RunPlan]) -> bool:
        if self.options.max_seeds is not None:
            write_experiment(self.runner.folder, resolved_experiment(self.experiment, stage))
        return self.runner.run(stage, self.signals.arrived)

    def _evaluate_kept(self, plans: Sequence[RunPlan]) -> None:
        """Evaluate runs of before the experiment asked for it; say how many kept no weights for that."""
        folder, wanted = self.runner.folder, self.runner.evaluate
        if wanted is None:
            return
        folders = [folder / plan.run_id for plan in plans if getattr(plan.config, "probe", None) is None]
        request = EvaluationRequest(folder, wanted, self.options.data_dir, trust_code=True)
        ended = evaluate_runs(folders, request, self.site.process, stop_requested=self.signals.arrived)
        states = Counter(run.state for run in ended)
        if missing := states["no checkpoint"] + states["failed"]:
            note(f"normbench: completed runs without an evaluation, because they kept no weights: {missing} (--force)")

    def _time(self, plans: Sequence[RunPlan]) -> None:
        """Time the norms of `plans` on one machine after the other, on a GPU while the report's figures are drawn."""
        if any(plan.config.device != "cuda" for plan in plans):
            self.drawers.wait()  # drawing takes from the cores that are timed
        else:
            self.drawers.foresee(lambda: Comparison(self.runner.folder, (), is_complete=False).report.figures)
        for process in self.site.timing_processes():
            TimingPass(
                self.runner.folder,
                plans,
                process,
                self.listener,
                self.options.data_dir,
                self.experiment.baseline,
                self.options.force,
                self.runner.prerequisite,
            ).run(self.signals.arrived)
            if self.signals.arrived():
                break

    def _look_at(self, plans: Sequence[RunPlan]) -> None:
        """Record that the verdicts over all that was asked for are looked at, where stages have not done so.

        A report is written all the same where that cannot be.
        """
        folder = self.runner.folder
        is_part = self.options.max_seeds is not None or self.options.shard is not None
        if is_part or not any(exists(folder / plan.run_id / SUMMARY_FILE) for plan in plans):
            return
        try:
            look_at(folder, seeds_of(plans), None)
        except NormBenchError as error:
            note(f"normbench: {error}")


@contextmanager
def _shown(listener: Listener | Progress) -> Iterator[None]:
    """Keep a display open; a listener that is a plain function needs nothing."""
    if isinstance(listener, Progress):
        with listener:
            yield
    else:
        yield


def _by_data(due: list[RunPlan]) -> dict[str, BaseRunConfig]:
    """Return one config for each set of data that runs read."""
    found: dict[str, BaseRunConfig] = {}
    for plan in due:
        fields = {name: v for name, v in plan.config.timing_fields.items() if name not in ("norm", "model", "train")}
        found[json.dumps(fields, sort_keys=True)] = plan.config
    return found


def _prerequisite(config: BaseRunConfig, options: RunOptions, site: Site, *, train: bool) -> Path | None:
    """Return the folder of the run that runs like `config` need, among the other experiments; None if they need none.

    Where it is not there yet, nor in the user cache, where it was kept before, it is trained if `train`, and else None
    is returned.

    Raises:
        DataError: data of it or of `config` is missing, or its training failed.
    """
    needed = TASKS[config.task].prerequisite(config)
    if needed is None:
        return None
    loaded = load_config(needed)
    (plan,) = plan_experiment(loaded, site.process)
    root = options.runs_dir / loaded.experiment.name
    folder = root / plan.run_id
    for place in (folder, platformdirs.user_cache_path("normbench") / root.name / plan.run_id):
        if (place / CHECKPOINT_FILE).is_file() and planned_state(place) == "completed":
            return place
    if not train:
        return None
    for waiting in (config, plan.config):
        site.process.call(targets.check_data, waiting, options.data_dir, None)
    what = f"a {plan.config.model_name} on {needed['dataset']['name']}"
    note(f"normbench: training the feature network once, {what}; it is kept in {folder}")
    write_experiment(root, resolved_experiment(loaded.experiment, [plan]))
    progress = make_progress([plan])
    with site.executor([plan], [plan], root, 1) as executor, HeldSignals() as signals, progress:
        runner = ExperimentRunner(
            root, executor, progress, options.data_dir, True, True, True, max_host_losses=site.max_host_losses
        )
        completed = runner.run([plan], signals.arrived)
    if not completed:
        raise DataError(f"the feature network is not trained: see {folder}")
    return folder


def _compile_kernels(
    due: list[RunPlan], folder: Path, options: RunOptions, worker: TrainingProcess, prerequisite: Path | None
) -> None:
    """Have the kernels of the first norms compiled together, and those of the others while the first train."""
    plans: dict[str, RunPlan] = {}
    for plan in due:
        if plan.config.device == "cuda":
            plans.setdefault(timing_key(plan.config), plan)  # seeds have the same kernels
    if not plans:
        return
    requests = [
        RunRequest(plan.config, folder / plan.run_id, options.data_dir, False, False, prerequisite)
        for plan in plans.values()
    ]
    first, later = requests[:_MAX_NORMS_COMPILED_TOGETHER], requests[_MAX_NORMS_COMPILED_TOGETHER:]
    seconds = worker.call(targets.compile_kernels, first, later)
    if seconds > _MIN_COMPILE_SECONDS_NOTED:
        note(f"normbench: kernels compiled in {seconds:.1f} s")


def _report(
    comparison: Comparison, on_report: Callable[[Comparison], None], drawers: Drawers, *, tensorboard: bool
) -> Comparison:
    """Write the report over what is recorded, also after an interrupt, and hand it on; return what became of it."""
    from normbench.report.tensorboard import write_tensorboard

    folder = comparison.folder
    if not any(folder.glob(f"*/{STATUS_FILE}")):
        return comparison  # nothing is recorded
    try:
        report = comparison.report
        with suppress(OSError):  # nobody reads stdout any more: the report is written all the same
            on_report(comparison)
        write_report_of(report, draw=drawers.draw_figures)
        if tensorboard:
            write_tensorboard(report, keep=True)
    except Exception as error:
        kind = FolderError if isinstance(error, OSError) else RunError
        problem = kind(f"{folder / REPORT_FOLDER}: the report cannot be written: {reason(error)}")
        note(f"normbench: {problem}")
        return replace(comparison, report_error=problem)
    return comparison
