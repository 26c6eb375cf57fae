"""Damages a recorded experiment in every way that a disk or a person may, and calls every command that reads it.

    python tests/torture/damaged_records.py FIRST COUNT FOLDER

tries the damages number FIRST to FIRST + COUNT - 1, each drawn from its number alone, in FOLDER, with little memory,
and prints a line of JSON for every fault: what was damaged, which command, and what came of it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typer.main import get_command

from normbench.cli import app
from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.config.style import StyleRunConfig
from normbench.errors import NormBenchError
from normbench.report.recorded_runs import load_curves, load_runs
from normbench.runs.timing_file import TimedNorm, Timing, TimingSession
from normbench.runs.writer import RunFolder, planned_state, write_experiment
from normbench.tasks.classification import Summary
from normbench.tasks.style_transfer import StyleSummary
from normbench.tasks.task import EpochRow

MEMORY_BYTES = 2 * 2**30
SECONDS, DRAWING_SECONDS = 6, 40
"""Of processor time, so that what else the machine does is no fault; and so many seconds without any are one."""
STILL_SECONDS = 5
DRAWN = 1_000
"""After one of so many damages the figures are drawn too, which takes some seconds."""
DRAWING = ("plots", "report")
NUM_COMMANDS = 3
"""How many command lines are tried after each damage."""

MACHINE = {"device": "cpu", "device_name": "a CPU", "torch": "2.11.0", "cuda": None, "precision": "fp32"}


class Hang(BaseException):
    """A command did not end."""


class Watch:
    """Raises `Hang` in what takes too much processor time, or waits and takes none; looks once a second."""

    def __init__(self, seconds: float) -> None:
        self._end = time.process_time() + seconds
        self._last, self._still = 0.0, 0

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, 1, 1)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, *_: object) -> None:
        now = time.process_time()
        self._still = self._still + 1 if now - self._last < 0.0005 else 0
        self._last = now
        if now > self._end or self._still == STILL_SECONDS:
            raise Hang


# --- the experiment ------------------------------------------------------------------------------------------------


def record(folder: Path) -> None:
    """Record two norms with two seeds each, timed in turn, and an experiment of style transfer with one run."""
    loaded = load_config({"norms": ["bn", "gn"], "seeds": 2, "dataset": "synthetic", "name": "tiny", "device": "cpu"})
    write_experiment(folder / "tiny", loaded.experiment)
    configs = [classifier(norm, seed) for norm in ("bn", "gn") for seed in (0, 1)]
    for position, config in enumerate(configs):
        run = RunFolder(folder / "tiny" / config.run_id).acquire()
        accuracy = 0.5 + 0.01 * position
        rows = [
            EpochRow(
                epoch=epoch, num_steps=3 * epoch, train_loss=2 / epoch, train_accuracy=accuracy, test_loss=2.0,
                test_accuracy=accuracy, train_seconds=1.0, test_seconds=0.5, learning_rate=1e-3,
            )
            for epoch in (1, 2)
        ]  # fmt: skip
        run.begin(config, rows=rows, losses=[(2.5 - step / 10,) for step in range(6)])
        run.write_environment({**MACHINE, "norm_path": "native: no GPU", "commit": "abc", "argv": ["normbench"]})
        summary = Summary(
            test_accuracy=accuracy, test_loss=2.0, train_accuracy=accuracy, train_loss=1.0, num_epochs=2, num_steps=6,
            num_parameters=10, train_seconds=2.0, epoch_seconds=1.0, startup_seconds=0.1, peak_memory_mib=5.0,
            images_per_second=40.0,
        )  # fmt: skip
        run.finish(summary, keep_checkpoint=False)
        run.release()
    timed = tuple(
        TimedNorm(
            label=config.label, config=config.timing_fields, seconds_per_step=(0.1, 0.11), steps_per_block=2,
            steps_per_epoch=3,
        )
        for config in configs[::2]
    )  # fmt: skip
    session = TimingSession(environment=MACHINE, measured_at="2026-11-28T14:46:09+00:00", timed=timed)
    (folder / "tiny" / "timing.json").write_text(Timing(sessions=(session,)).model_dump_json(indent=1) + "\n")
    record_style(folder / "style")


def classifier(norm: str, seed: int) -> RunConfig:
    """The config of a run of two epochs of three steps."""
    return RunConfig.model_validate(
        {
            "norm": {"name": norm, "label": norm.upper()},
            "model": "norm_resnet",
            "dataset": {"name": "synthetic", "options": {"num_train": 40, "num_test": 20, "seed": 0}},
            "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "engine": "eager"},
            "seed": seed,
            "device": "cpu",
        }
    )


def record_style(experiment: Path) -> None:
    """Record a run of style transfer with its pictures."""
    config = StyleRunConfig.model_validate(
        {
            "style": "waves", "content": "synthetic", "num_content": 6, "image_size": 16, "style_size": 32,
            "features": "features", "train": {"steps": 3, "batch_size": 2, "precision": "fp32", "engine": "eager"},
            "norm": {"name": "in", "label": "IN"}, "seed": 0, "device": "cpu",
        }
    )  # fmt: skip
    run = RunFolder(experiment / config.run_id).acquire()
    run.begin(config, losses=[(2.0 - step / 10, 1.0, 0.5, 0.1) for step in range(3)])
    run.write_environment({**MACHINE, "features": "features"})
    pictures = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
    run.write_samples({"content": pictures, "stylized": pictures, "style": pictures[0]})
    (run.path / "model.pt").write_bytes(b"weights")
    summary = StyleSummary(
        content_loss=1.0, style_loss=0.5, total_variation=0.1, total_loss=1.6, contrast_change={0.4: 0.4}, num_steps=3,
        num_parameters=10, train_seconds=2.0, startup_seconds=0.1, peak_memory_mib=5.0, images_per_second=40.0,
    )  # fmt: skip
    run.finish(summary, keep_checkpoint=False)
    run.release()


# --- damages -------------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
VALUES: list[Any] = [
    None, True, False, 0, -5, 1, 3, 10**30, 10**400, 0.5, -0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"),
    float("-inf"), "", "x", "nan", "-Infinity", "1e999", "$x_{$", "=cmd|'/c calc'!A1", "a\x1b]0;b\x07", "line\nbreak",
    "\u202ebidi", "<script>", "9" * 5000, "y" * 100_000, [], [[]], [None], [True], {}, {"a": {"b": 1}}, {"name": []},
    [1, "a"], "2020-99-99", "bn", "gn", "running", "completed", "diverged", "failed", "classification",
    "style_transfer", "cifar10", "batch_one", "2026-11-28", "0001-01-01T00:00:00", "9999-12-31T23:59:59+00:00",
]  # fmt: skip
TEXTS = [
    b"", b"\n", b"{", b"[]", b'""', b"null", b"1", b"true", b"{}", b"\x00" * 4096, b"\xff\xfe\x00", b"[" * 1_000,
    b"[" * 200_000, b"[" * 1_500 + b"]" * 1_500, b'{"a":' * 100_000, b'{"a":' * 990 + b"1" + b"}" * 990,
    BOMB.encode(), b"a: &a [*a]", b"- " * 5_000 + b"1", b"!!python/object/apply:os.system [false]", b"!!int 0x",
    b"!!timestamp x", b"norms: [true]", b"norms: xx", b"norms: [{name: 1}]", b"label: [1]", b"norms: 3\nseeds: x",
    b"norms: [bn]\ngrid: {a: 3}", b"grid: []\nnorms: [{name: bn, train: 3}]", b'{"state": "completed"}',
    b"9" * 10_000, b"1e999", b"NaN", b'"\\ud800"', b'{"device_name": "\\ud800", "norm_path": "\\u001b[31m"}',
    b'{"loss": NaN}', b'{"loss": [-Infinity]}', b'{"loss": 1e999}',
    b'{"norm_path": true}', b'{"norm_path": []}', b'{"device_name": {"a": []}}', b'? "\\ud800"\n: 1',
    b"step,loss\n0,abc\n", b"step,loss\n0\n", b"step,loss\n0,1,2\n", b"step,loss\n0,1e400\n", b"step,loss\n0,-1e308\n",
    b"step,loss\n" + b"0,1\n" * 100_000, b"step,loss\n0," + b"9" * 100_000 + b"\n", b"\n\n\n", b"a,b\r\n1,2\r\n",
]  # fmt: skip
TEXTS += [b'{"a' + str(n).encode() + b'": ' + b"[" * n + b"]" * n + b"}" for n in (20, 60, 500, 980)]


def mutate_value(random_: random.Random, value: Any) -> Any:
    """Return `value` with one of its parts, drawn by chance, replaced or removed."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(list(value))
        changed = dict(value)
        if random_.random() < 0.1:
            del changed[key]
        elif random_.random() < 0.05:
            changed[random_.choice(["x", "\x1b[1m", "9" * 300, "name", "task"])] = random_.choice(VALUES)
        else:
            changed[key] = mutate_value(random_, value[key])
        return changed
    if isinstance(value, list) and value and random_.random() < 0.8:
        position = random_.randrange(len(value))
        if random_.random() < 0.1:
            return value[:position] + value[position + 1 :]
        return [*value[:position], mutate_value(random_, value[position]), *value[position + 1 :]]
    return random_.choice(VALUES)


def flip_bits(random_: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"x")
    for _ in range(random_.choice([1, 1, 2, 8, 64])):
        changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def change_structure(random_: random.Random, name: str, content: bytes) -> bytes:
    """Replace a value of a file that holds values by another, of the wrong type or size."""
    text = content.decode()
    if name.endswith(".yaml"):
        return yaml.dump(mutate_value(random_, yaml.safe_load(text)), sort_keys=False).encode()
    if name.endswith(".json"):
        return json.dumps(mutate_value(random_, json.loads(text))).encode()
    lines = text.splitlines()
    position = random_.randrange(len(lines))
    if name.endswith(".jsonl"):
        lines[position] = json.dumps(mutate_value(random_, json.loads(lines[position])))
    else:
        cells = lines[position].split(",")
        cells[random_.randrange(len(cells))] = str(random_.choice(VALUES))
        lines[position] = ",".join(cells)
    return ("\n".join(lines) + "\n").encode()


def bad_pictures(random_: random.Random) -> bytes:
    """Return an npz whose headers say what its data does not keep, or whose data is a bomb."""
    buffer = io.BytesIO()
    header = random_.choice(
        [
            "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 30 + ",), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 16, 16, 3), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2, -16, 16, 3), }",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 16), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 0, 0, 3), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (70000, 40, 500, 3), }",
            "(" * 200,
            "{'''",
        ]
    )
    magic = random_.choice([b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", b"PICKLE\x01\x00"])
    with zipfile.ZipFile(buffer, "w", random_.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])) as archive:
        for name in ("content", "stylized", "style"):
            size = random_.choice([0, 100, 1_536, 50_000_000])
            data = magic + len(header).to_bytes(2, "little") + header.encode() + bytes(size)
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def odd_file(random_: random.Random, path: Path) -> str:
    """Put what is no regular file, or an endless or huge one, in the place of a record."""
    kind = random_.choice(["fifo", "zero", "folder", "loop", "dangling", "random", "sparse", "null", "mode", "full"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(random_.choice([2**28, 2**31, 2**34]))
    elif kind == "mode":
        path.touch(mode=0)
    else:
        targets = {"zero": "/dev/zero", "random": "/dev/urandom", "null": "/dev/null", "full": "/dev/full"}
        path.symlink_to({**targets, "loop": path.name, "dangling": "nowhere"}[kind])
    return kind


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Experiment:
    """The recorded experiments, which are as they were after every damage."""

    def __init__(self, folder: Path) -> None:
        record(folder)
        self.folder = folder
        self.contents = {
            path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"
        }
        self.targets = [path for path in self.contents if path.name != "model.pt"]
        self.runs = sorted({path.parent for path in self.contents if path.name == "status.json"})

    def damage(self, random_: random.Random) -> tuple[Path, str]:
        """Damage one file, and return it and how."""
        path = random_.choice(self.targets)
        content = self.contents[path]
        how = random_.choice(["flip", "cut", "structure", "structure", "structure", "text", "swap", "odd", "gone"])
        if path.suffix == ".npz" and how in ("structure", "text"):
            how = "pictures"
        remove(path)
        if how == "odd":
            how = odd_file(random_, path)
        elif how != "gone":
            changes: dict[str, Callable[[], bytes]] = {
                "flip": lambda: flip_bits(random_, content),
                "cut": lambda: content[: random_.randrange(len(content))],
                "structure": lambda: change_structure(random_, path.name, content),
                "text": lambda: random_.choice(TEXTS),
                "swap": lambda: self.contents[random_.choice(list(self.contents))],
                "pictures": lambda: bad_pictures(random_),
            }
            path.write_bytes(changes[how]())
        return path, how

    def mend(self, path: Path) -> None:
        """Put back the file, and remove what commands wrote."""
        remove(path)
        path.write_bytes(self.contents[path])
        for report in self.folder.rglob("report"):
            remove(report)


# --- commands ------------------------------------------------------------------------------------------------------


def commands(random_: random.Random, experiment: Experiment, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield reading commands, by name: a few, drawn by chance, and those that draw now and then."""
    folder, run = str(experiment.folder), str(path.parent)
    formats = [("table", folder, "--format", name) for name in ("text", "md", "latex", "csv", "tsv", "json")]
    advise = ("advise", "--task", "classification", "--data", "iid", "--architecture", "no-norm", "--runs")
    typed = [("ls", folder), ("ls", folder, "--json"), ("show", run), ("show", run, "--json"), random_.choice(formats)]
    typed.append((*advise, str(experiment.folder / "tiny")))
    for words in random_.sample(typed, NUM_COMMANDS):
        yield words[0], partial(_command_line, words)
    yield "load_runs", lambda: load_runs(folder)
    yield "load_curves", lambda: load_curves(run)
    yield "planned_state", lambda: [planned_state(other) for other in experiment.runs]


def drawing_commands(experiment: Experiment) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the commands that write reports, by name."""
    folder = str(experiment.folder)
    yield "plots", partial(_command_line, ("plots", folder))
    yield "report", partial(_command_line, ("report", folder, "--tensorboard"))


COMMAND_LINE = get_command(app)


def _command_line(words: Sequence[str]) -> None:
    COMMAND_LINE.main(list(words), "normbench", standalone_mode=False)


def faults_of(name: str, command: Callable[[], Any], untouched: set[str]) -> Iterator[str]:
    """Call a command, and yield what it must not do."""
    printed = io.StringIO()
    found: Any = None
    try:
        with (
            Watch(DRAWING_SECONDS if name in DRAWING else SECONDS),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            found = command()
    except NormBenchError as error:
        if len(str(error)) > 2_000:
            yield f"a message of {len(str(error))} characters"
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", str(error)):
            yield "a control character in a message"
    except (Hang, Exception) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/normbench/" in frame.filename and "/site-packages/" not in frame.filename]
        yield f"{type(error).__name__} in {Path(own[-1].filename).name if own else '?'}: {str(error)[:80]!r}"
    if name == "load_runs" and not untouched <= {row["run"] for row in found or ()}:
        yield "runs that were not touched are missing"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", printed.getvalue()):
        yield "a control character on the terminal"
    if not is_strict(printed.getvalue()):
        yield "JSON that is none"
    if name == "table" and (cell := _formula(printed.getvalue())):
        yield f"a cell that a spreadsheet executes: {cell[:20]!r}"


def is_strict(text: str) -> bool:
    """Return whether a text that begins as JSON is JSON, which has no NaN and no Infinity."""
    if not text.startswith("{"):
        return True

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def _formula(text: str) -> str | None:
    if not text.startswith("norm,"):
        return None
    csv.field_size_limit(2**24)
    for cell in (cell for row in csv.reader(io.StringIO(text)) for cell in row):
        if cell.startswith(("=", "@", "+", "-")) and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?|-?inf|nan", cell):
            return cell
    return None


def main(first: int, count: int, folder: Path) -> None:
    """Try damages and print the faults."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    experiment = Experiment(folder)
    calls = 0
    for number in range(first, first + count):
        random_ = random.Random(number)
        path, how = experiment.damage(random_)
        untouched = {run.name for run in experiment.runs if run != path.parent}
        called = list(commands(random_, experiment, path))
        if number % DRAWN == 0:
            called += drawing_commands(experiment)
        for name, command in called:
            calls += 1
            for fault in faults_of(name, command, untouched):
                told = {"number": number, "file": path.name, "how": how, "command": name, "fault": fault}
                print(json.dumps(told), flush=True)
        experiment.mend(path)
    print(json.dumps({"damages": count, "calls": calls}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
