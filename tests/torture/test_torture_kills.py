"""Real processes, killed at random moments until they come to their end: the records are those of undisturbed ones.

`NORMBENCH_TORTURE=N` kills something a hundredth of N times, because a kill takes seconds. The seed of the moments is
printed where a test fails; `NORMBENCH_TORTURE_SEED` repeats them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from command import num_epochs, start, wait_for, worker_pids
from forked_program import ForkedProgram, SavingProgram, import_all, quick_ending  # noqa: F401 (a fixture)
from recorded_results import results

from normbench.runs.records import read_status

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="workers are found through Linux's /proc"
)

SEED = int(os.environ.get("NORMBENCH_TORTURE_SEED", random.randrange(10**6)))
KILLS = max(1, int(os.environ.get("NORMBENCH_TORTURE", 100_000)) // 100)
SHARES = (1.0, 0.3, 0.3, 0.3)
"""The shares of a command's time within which it is killed, one of them drawn for each kill."""
DATA = "dataset: {name: synthetic, options: {num_train: 96, num_test: 32}}\ndevice: cpu\n"
SMALL = f"model: norm_resnet_small\n{DATA}"
TRAIN = ["train", "--config", "train.yaml"]
COMPARE = ["compare", "compare.yaml"]
STYLE = ["stylize", "compare", "style.yaml"]
CONFIGS = {
    "train.yaml": f"name: t\nnorm: brn\n{SMALL}"
    "train: {epochs: 12, batch_size: 16, schedule: one_cycle, augment: crop_flip, optimizer: sgd, lr: 0.01}",
    "compare.yaml": f"name: c\nnorms: [bn, gn]\n{SMALL}train: {{epochs: 6, batch_size: 16}}",
    "features.yaml": f"name: f\nnorm: bn\nmodel: resnet9\n{DATA}train: {{epochs: 1, batch_size: 32}}",
    "style.yaml": "name: s\nnorms: [in]\ncontent: synthetic\nnum_content: 16\nimage_size: 16\nstyle_size: 16\n"
    "features: FEATURES\ndevice: cpu\ntrain: {steps: 24, batch_size: 2}",
}


def finish(begin: Callable[..., Any], folder: Path, arguments: list[str]) -> str:
    """Run a command to its good end, and return what it says."""
    with begin(folder, *arguments) as process:
        err = process.communicate(timeout=200)[1]
    assert process.returncode == 0, f"seed {SEED}: {err}"
    assert "Traceback" not in err
    return err


class Undisturbed(NamedTuple):
    """A command that ran to its end without a disturbance: in which folder, and how long that took."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Undisturbed]:
    """Run a command to its end when it is first asked for."""

    @cache
    def run(begin: Callable[..., Any], *arguments: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp("undisturbed")
        for name, text in CONFIGS.items():
            (folder / name).write_text(text)
        if arguments == (*STYLE,):
            finish(begin, folder, ["train", "--config", "features.yaml", "--keep-checkpoint"])
            (features,) = (folder / "runs" / "f").glob("bn-*")
            (folder / "style.yaml").write_text(CONFIGS["style.yaml"].replace("FEATURES", str(features)))
        began = time.monotonic()
        finish(begin, folder, [*arguments])
        return Undisturbed(folder, time.monotonic() - began)

    return lambda begin, arguments: run(begin, *arguments)


def kill_until_done(
    begin: Callable[..., Any], folder: Path, arguments: list[str], draw: random.Random, max_kills: int, seconds: float
) -> Counter[str]:
    """Start the command again and again, and within `seconds` kill it, its worker or both, until it ends.

    Most of them lie in the first third, so that it is killed several times before it ends.

    Returns how often which was killed, and how often a checkpoint was there then.
    """
    kills: Counter[str] = Counter()
    for _ in range(max_kills):
        with begin(folder, *arguments) as process:
            moment = time.monotonic() + draw.uniform(0.0, seconds) * draw.choice(SHARES)
            victim = draw.choice(["group", "parent", "worker"])
            while process.poll() is None and time.monotonic() < moment:
                time.sleep(0.002)
            workers = worker_pids(process)
            if not workers and victim == "worker":
                victim = "parent"
            if process.poll() is not None:
                err = process.communicate(timeout=200)[1]
                if process.returncode == 0:
                    assert "cannot be used" not in err  # every checkpoint that a kill leaves is whole
                    return kills
                assert process.returncode == 1, err  # its worker was killed before
                assert "Traceback" not in err
                continue
            kills[victim] += 1
            kills["with a checkpoint"] += any(folder.glob("runs/*/*/checkpoint.pt"))
            if victim == "worker":
                for pid in workers:
                    _kill(pid)
            elif victim == "parent":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            if victim == "worker":
                _, err = process.communicate(timeout=100)
                assert "Traceback" not in err
                assert process.returncode in (0, 1), err
            else:
                process.wait()
                wait_for(lambda pids=workers: not any(map(is_running, pids)), 30)  # an orphan saves, and ends
    assert "cannot be used" not in finish(begin, folder, arguments)
    return kills


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_killed(
    begin: Callable[..., Any], folder: Path, calm: Undisturbed, arguments: list[str], draw: random.Random, kills: int
) -> Counter[str]:
    """Kill a command in `folder` so often, until it ends, and compare what it recorded with an undisturbed one's."""
    for name in CONFIGS:
        (folder / name).write_text((calm.folder / name).read_text())
    name = {"train": "t", "compare": "c", "stylize": "s"}[arguments[0]]
    killed = kill_until_done(begin, folder, arguments, draw, kills, calm.seconds)
    assert results(folder / "runs" / name) == results(calm.folder / "runs" / name), f"seed {SEED}"
    return killed


def test_what_is_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path, undisturbed) -> None:
    import_all()
    draw = random.Random(SEED)
    for number in range(3):
        calm = undisturbed(SavingProgram, TRAIN)
        if num_killed(check_killed(SavingProgram, _made(tmp_path / str(number)), calm, TRAIN, draw, 4)):
            return
    pytest.fail("nothing was killed")


@pytest.mark.slow
@pytest.mark.skipif("NORMBENCH_TORTURE" not in os.environ, reason="NORMBENCH_TORTURE says how many kills")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("arguments", [TRAIN, COMPARE, STYLE], ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("kind", ["forked", "started"])
def test_a_thousand_kills(tmp_path, undisturbed, arguments: list[str], kind: str) -> None:
    """Nine of ten of programs that are forked, with nothing to import, the others as a user starts them."""
    draw = random.Random(SEED)
    kills: Counter[str] = Counter()
    num_rounds = 0
    begin, share = (SavingProgram, 0.9) if kind == "forked" else (start, 0.1)
    if kind == "forked":
        import_all()
    while num_killed(kills) < KILLS * share / 3:
        folder = _made(tmp_path / f"{num_rounds}")
        kills += check_killed(begin, folder, undisturbed(begin, arguments), arguments, draw, 12)
        num_rounds += 1
        shutil.rmtree(folder)
        told = f"{kind} {arguments[0]}, seed {SEED}: {num_killed(kills)} kills in {num_rounds} rounds: {dict(kills)}"
        print(told, flush=True)


def num_killed(kills: Counter[str]) -> int:
    return sum(kills[victim] for victim in ("group", "parent", "worker"))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# --- signals -------------------------------------------------------------------------------------------------------


LONG = f"name: long\nnorms: [bn, gn]\n{SMALL}train: {{epochs: 20000, batch_size: 16}}"
"""Trained until it is stopped."""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131}


def _slow(number: signal.Signals) -> Any:
    return pytest.param(number, marks=pytest.mark.slow)


@pytest.fixture(params=[ForkedProgram, pytest.param(start, marks=pytest.mark.slow)], ids=["forked", "started"])
def training(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A comparison that has trained for longer than a checkpoint takes to come."""
    (tmp_path / "long.yaml").write_text(LONG)
    with request.param(tmp_path, "compare", "long.yaml") as process:
        wait_for(lambda: num_epochs(tmp_path) >= 2)
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def check_resumable(folder: Path, *, has_status: bool = True) -> None:
    """There is an interrupted run, and its checkpoint has nearly all that was recorded."""
    (run,) = (path.parent for path in folder.glob("runs/long/*/status.json"))
    assert read_status(run).state == "interrupted"
    if has_status:
        assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    num_recorded = len((run / "steps.csv").read_text().splitlines()) - 1
    num_saved = len(torch.load(run / "checkpoint.pt", weights_only=True)["losses"])
    assert num_saved >= num_recorded


@pytest.mark.parametrize("number", [_slow(signal.SIGINT), _slow(signal.SIGTERM), signal.SIGHUP, _slow(signal.SIGQUIT)])
def test_a_signal_ends_the_step_saves_and_reports(tmp_path, training, number: signal.Signals) -> None:
    os.killpg(training.pid, number)  # as a terminal does
    _, err = training.communicate(timeout=60)
    assert training.returncode == CODES[number]
    assert "Traceback" not in err
    check_resumable(tmp_path)
    assert (tmp_path / "runs" / "long" / "report" / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, _slow(signal.SIGTERM)])
def test_a_second_signal_ends_it_within_two_seconds_and_saves_too(tmp_path, training, number: signal.Signals) -> None:
    os.killpg(training.pid, number)
    time.sleep(0.05)
    os.killpg(training.pid, number)
    began = time.monotonic()
    _, err = training.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert training.returncode == CODES[number]
    assert "Traceback" not in err
    check_resumable(tmp_path)
    assert seconds < 2 + os.getloadavg()[0]  # a machine that is busy with others takes its time


@pytest.mark.slow
def test_a_storm_of_signals_leaves_no_traceback(tmp_path, training) -> None:
    for _ in range(60):
        if training.poll() is not None:
            break
        os.killpg(training.pid, signal.SIGINT)
        time.sleep(0.01)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "Traceback" not in err
    check_resumable(tmp_path)


@pytest.mark.slow
def test_one_signal_is_enough_where_the_worker_is_suspended(tmp_path, training) -> None:
    (worker,) = worker_pids(training)
    os.kill(worker, signal.SIGSTOP)
    training.send_signal(signal.SIGINT)
    training.communicate(timeout=60)
    assert training.returncode == 130
    check_resumable(tmp_path)


EARLY = [round(0.3 + 0.05 * step, 2) for step in range(115)]


def _early(number: signal.Signals) -> list[Any]:
    """Cases of a signal at every 50 ms of the first 6 seconds, of which one of SIGINT is fast enough for every day."""
    return [
        pytest.param(number, seconds, marks=[] if (number, seconds) == (signal.SIGINT, 0.9) else pytest.mark.slow)
        for seconds in (EARLY if "NORMBENCH_TORTURE" in os.environ else EARLY[:19:6])
    ]


@pytest.mark.parametrize(("number", "seconds"), _early(signal.SIGINT) + _early(signal.SIGTERM))
def test_a_signal_while_it_starts_ends_it_without_a_traceback(tmp_path, number: signal.Signals, seconds: float) -> None:
    """Whatever is being imported. Before 0.3 s, Python itself may still be starting."""
    (tmp_path / "long.yaml").write_text(LONG)
    with start(tmp_path, "compare", "long.yaml") as process:
        wait_for(lambda: _catches(process.pid, number))
        time.sleep(seconds - EARLY[0])
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number], err
    assert "Traceback" not in err


def _catches(pid: int, number: int) -> bool:
    """Return whether the process has a handler of its own; Python has one for Ctrl-C from the start."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


# --- two at once ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_ending")
def test_two_processes_train_each_run_once_and_both_end_well(tmp_path) -> None:
    (tmp_path / "two.yaml").write_text(f"name: two\nnorms: [bn, gn]\n{SMALL}train: {{epochs: 2, batch_size: 32}}")
    with (
        ForkedProgram(tmp_path, "compare", "two.yaml") as first,
        ForkedProgram(tmp_path, "compare", "two.yaml") as second,
    ):
        said = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    trained = [line for text in said for line in text.splitlines() if "Epoch 1/2 | Batch 0" in line]
    assert len(trained) == len(set(trained)) == 2
    assert sum("timing the steps of 2 norms" in text for text in said) == 1
    assert len(list((tmp_path / "runs" / "two").glob("*/summary.json"))) == 2
