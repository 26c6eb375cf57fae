"""Whatever a config or ``--set`` says, it is read, or refused with a short message: no crash, no hang, no flood.

`NORMBENCH_TORTURE=100000 pytest -m slow tests/torture/test_torture_configs.py` tries so many; without it the slow tests
try some thousands, from a fresh seed each time, which a failure names.
"""

import os
import random
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture_limits import TookTooLong, cpu_seconds_limited, memory_limited

from normbench.config.bounds import MAX_RUNS
from normbench.config.built_in import built_in_configs
from normbench.config.load import load_config
from normbench.errors import ConfigError
from normbench.experiment.plan import draft_runs

MAX_CPU_SECONDS = 2.0
MAX_CPU_SECONDS_PER_RUN = 1e-4
"""More, for each run that a valid config asks for: up to 100,000."""
MAX_MESSAGE_BYTES = 2048
MEMORY_BYTES = 1 << 30
NUM_SLOW = int(os.environ.get("NORMBENCH_TORTURE", "4000"))

SCALARS = [
    "1", "0", "-1", "1e999", "-.inf", ".nan", "~", "null", "true", "no", "''", "bn", "gn", "synthetic", "cosine",
    "x" * 3000, "9" * 30, "9" * 4301, "1" * 19, "1000000000", "1000000", "99999", "100001", "0x10", "1_000", "1:30",
    "2020-99-99", "010", "²", "⑤", "é", "$x_{$", "=", "<<", "*a", "&a b", "&a [*a]", "&a {b: *a}", "!!int 0x",
    "!!int {norms: bn}", "!!int ''", "!!bool q", "!!float z", "!!timestamp x", "!!timestamp 2020-99-99", "!!set {a}",
    "!!set [a]", "!!omap [a: 1]", "!!pairs [a: 1]", "!!binary é", "!!binary x", "!!null x", "!!str [a]", "!!map [a]",
    "!!seq {a: b}", "!!merge x", "!x y", "! x", "!!python/object:os.system x", '"\\e[31mred\\e[0m"', '"\\0"',
    '"a\\nb"', '"\\uD800"', '"\\U00110000"', '"\\UFFFFFFFF"', '"\\x9b2J"', '"\\u202e"', "[]", "{}", "[[]]", "[{}]",
    "[bn, bn]", "[1, 2]", "{a: b}", "{1: 2}", "{~: 1}", "{[a]: b}", "{{a: b}: c}", "? [a]\n", "{a, b}", "{name: gn}",
    "{name: gn, options: {groups: 8}}", "{name: [gn]}", "{name: gn, train: {lr: 1}}", "{rule: sqrt}", "[", "{", '"',
    "'", "|", ">", "|2\n x", "%", "@", "`", "- - - a", "[" * 50 + "]" * 50, "[" * 3000,
    "{a: " * 400 + "1" + "}" * 400, "[" + "1," * 3000 + "]", "[" + "bn," * 3000 + "]",
    "{" + ",".join(f"k{i}: 1" for i in range(500)) + "}",
]  # fmt: skip
BOMB = "\n".join(
    ["x0: &x0 [1,1,1,1,1,1,1,1,1]", *(f"x{i}: &x{i} [{','.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 7))]
)
KEYS = [
    "norms", "norm", "seeds", "seed", "name", "model", "dataset", "train", "grid", "device", "baseline", "task",
    "batch_one", "probe", "lr_scaling", "lr", "epochs", "batch_size", "options", "label", "style", "content",
    "features", "image_size", "steps", "num_content", "int", "none", "str", "float", "bool", "a]",
    "function-plain[x]", "", "0", "²", "-1", "x" * 300, '"\\e[1m"', '"a\\nb"', "train.lr",
]  # fmt: skip
LINES = [
    BOMB, "seeds: 10000000000", "seeds: 1000000000", "seeds: 1000000", "seeds: 90000", "int: 3", "none: 1", "- a",
    "---", "...", "--- a\n--- b", "%YAML 9.9", "%TAG ! x", "%YAML " + "1" * 5000 + ".1", "? a", "? [b]\n: c", "\t",
    "\x00", "\x1b[31m", "\ufeff", "\ud7ff", "norms: [bn]\nnorms: [gn]", "<<: {a: 1}", "<<: [*a]",
    "grid: {train.lr: [" + "1," * 400 + "1], train.momentum: [" + "0.1," * 400 + "0.2]}",
    "grid: {" + ", ".join(f"train.{key}: [{','.join(['1'] * 1000)}]" for key in ("lr", "batch_size", "epochs")) + "}",
    "grid: {" + "a: {" * 60 + "b: [1]" + "}" * 61, "grid: {dataset.options.seed: [1, [2]], model: [{name: vit}, 3]}",
    "dataset: {name: synthetic, options: {num_train: 1000000000000}}",
    "model: {name: vit, options: {depth: 1000000000}}",
    "norms:\n" + "".join(f"- {{name: gn, label: g{i}}}\n" for i in range(300)),
    "norms:\n" + "".join(f"- {{name: q{i}, opt: 1}}\n" for i in range(900)),
    "train: {epochs: 1000000000, batch_size: 1000000000}", "task: style_transfer\nimage_size: 1000000",
    "task: style_transfer\nnorms: [in]\ntrain: {batch_size: 100000000}", "#" * 2000, "a: " * 50,
]  # fmt: skip


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    with memory_limited(MEMORY_BYTES):
        yield


def failure(file: Path, text: str, assignments: list[str]) -> str | None:
    """Return what is wrong with how these are treated, or None."""
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    began, num_runs = time.process_time(), 0
    try:
        with cpu_seconds_limited(MAX_CPU_SECONDS + MAX_RUNS * MAX_CPU_SECONDS_PER_RUN):
            num_runs = len(draft_runs(load_config(file, settings=assignments)))
    except ConfigError as error:
        message = str(error)
        size = len(message.encode("utf-8", "surrogatepass"))
        if size > MAX_MESSAGE_BYTES:
            return f"a message of {size} bytes"
        if unseen := {
            character for character in message if character != "\n" and category(character) in ("Cc", "Cs", "Zl", "Zp")
        }:
            return f"control characters in a message: {unseen}"
        if not message.strip():
            return "an empty message"
    except (TookTooLong, Exception) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - began
    return f"{seconds:.1f} s" if seconds > MAX_CPU_SECONDS + num_runs * MAX_CPU_SECONDS_PER_RUN else None


def mutated(choose: random.Random) -> tuple[str, list[str]]:
    """Return a built-in config, or a small one, after one to four changes, and up to two assignments."""
    lines = choose.choice(sources()).splitlines()
    for _ in range(choose.randint(1, 4)):
        position = choose.randrange(len(lines) + 1)
        line = lines[position % len(lines)] if lines else ""
        match choose.randrange(8):
            case 0:
                lines.insert(position, choose.choice(LINES))
            case 1:
                lines.insert(position, f"{choose.choice(KEYS)}: {choose.choice(SCALARS)}")
            case 2 if lines:
                lines[position % len(lines)] = line.partition(":")[0] + ": " + choose.choice(SCALARS)
            case 3 if lines:
                lines[position % len(lines)] = " " * choose.randint(1, 4) + line
            case 4 if lines:
                del lines[position % len(lines)]
            case 5 if lines:
                at = choose.randrange(len(line) + 1)
                character = choose.choice("\x00\x1b\t{}[]:,#&*!|>'\"%@`-?²é\u2028\U0001f600 ")
                lines[position % len(lines)] = line[:at] + character + line[at + choose.randint(0, 3) :]
            case 6 if lines:
                lines.insert(position, line)
            case _:
                lines = lines[:position]
    return "\n".join(lines), [assignment(choose) for _ in range(choose.choice((0, 0, 0, 1, 2)))]


def assignment(choose: random.Random) -> str:
    """Return what might stand after ``--set``."""
    if choose.random() < 0.3:
        return choose.choice(
            [
                "²=1",
                "seeds.⑤=1",
                "=",
                "",
                ".",
                "..=1",
                "a" * 5000 + "=1",
                "a." * 3000 + "b=1",
                "norms.-1=gn",
                "grid.=1",
                "grid.train.lr=3",
            ]
        )
    path = ".".join(choose.choice(KEYS) for _ in range(choose.randint(1, 4)))
    return f"{path}={choose.choice(SCALARS)}"


@cache
def sources() -> tuple[str, ...]:
    small = ("norms: [bn]\nseeds: 2\n", "norm: gn\ntrain: {lr: 0.1, epochs: 2}\ndataset: synthetic\nlabel: x\n")
    return (*small, *small, *(file.read_text(encoding="utf-8") for file in built_in_configs().values()))


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Return a config as text, of keys and values that are known or strange, nested as hypothesis likes."""
    scalars = st.sampled_from(SCALARS) | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
    keys = st.sampled_from(KEYS)
    value = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]")
            | st.dictionaries(keys, inner, max_size=4).map(
                lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"
            )
        ),
        max_leaves=8,
    )
    return "\n".join(f"{draw(keys)}: {draw(value)}" for _ in range(draw(st.integers(1, 5))))


def check_many(folder: Path, seed: int, count: int) -> None:
    found: dict[str, tuple[str, list[str]]] = {}
    for number in range(count):
        text, assignments = mutated(random.Random(seed * 1_000_000 + number))
        if wrong := failure(folder / "c.yaml", text, assignments):
            found.setdefault(wrong, (text[:300], [one[:300] for one in assignments]))
    assert not found, f"seed {seed}: {found}"


def test_mutated_configs(tmp_path: Path) -> None:
    check_many(tmp_path, 1, 250)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(documents())
def test_generated_configs(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assert failure(tmp_path_factory.getbasetemp() / "c.yaml", text, []) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=30) | st.randoms(use_true_random=False).map(assignment), min_size=1, max_size=3))
def test_generated_settings(tmp_path_factory: pytest.TempPathFactory, assignments: list[str]) -> None:
    assert failure(tmp_path_factory.getbasetemp() / "c.yaml", "norms: [bn, gn]\n", assignments) is None


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_mutated_configs(tmp_path: Path) -> None:
    check_many(tmp_path, int(time.time()), NUM_SLOW // 2)


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=NUM_SLOW // 2, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(documents(), st.lists(st.randoms(use_true_random=False).map(assignment), max_size=2))
def test_many_generated_configs(tmp_path_factory: pytest.TempPathFactory, text: str, assignments: list[str]) -> None:
    assert failure(tmp_path_factory.getbasetemp() / "c.yaml", text, assignments) is None
