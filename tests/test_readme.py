"""Every command of the README is run, as it stands there but on less data; those of the other pages are parsed."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from normbench.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = ["--set", "dataset={name: synthetic, options: {num_train: 10, num_test: 10}}", "--device", "cpu"]
TINY += ["--set", "model=norm_resnet_small"]  # where a command names no other


CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
ROOT_COMMAND: Any = typer.main.get_command(app)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def all_commands(page: str) -> list[str]:
    """Return the commands of a page: in blocks, indented, and inline; those with ``...`` only name a command."""
    lines = [line.strip().removeprefix("$ ") for line in page.splitlines()]
    found = [line for line in lines if line.startswith("normbench ")]
    found += [" ".join(code.split()) for code in re.findall(r"(?<!`)`(normbench [^`]+)`", page)]
    return [text for line in found if "..." not in (text := re.split(r" +#| [|&>;] ?", line)[0].strip())]


NORMBENCH = [line for line in commands() if line.startswith("normbench ")]
MAKE = [line for line in commands() if line.startswith("make")]


def test_every_line_is_a_command_that_is_run_here() -> None:
    assert set(commands()) == {*NORMBENCH, *MAKE, ". .venv/bin/activate"}
    assert len(NORMBENCH) >= 10


def test_every_normbench_command_runs_in_their_order(
    normbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports are drawn by the commands that are there for it; tests/cli has those of comparisons, and times norms."""
    monkeypatch.setattr("normbench.experiment.timing_pass.TimingPass.run", lambda *_: None)
    for name in ("write_report_of", "write_run_report"):
        monkeypatch.setattr(f"normbench.experiment.execute.{name}", lambda *_, **__: [])
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (own_norm,) = [block for block in blocks("python") if "class MyNorm" in block]
    (tmp_path / "mynorm.py").write_text(own_norm)
    for line in NORMBENCH:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "demo":
            continue  # tests/cli/test_cli_demo.py runs it
        if "--dry-run" in arguments:
            arguments += ["--device", "cpu"]
        elif arguments[0] in ("train", "compare"):
            arguments += TINY
            arguments += ["--epochs", "1"] if arguments[0] == "compare" or "--epochs" not in line else []
            arguments += ["--seeds", "1"] if arguments[0] == "compare" else []
        if arguments[0] == "bench":
            arguments += ["--device", "cpu", "--rounds", "1", "--batch-sizes", "4", "--norms", "bn"]
        if arguments[:2] == ["data", "fetch"]:
            # Nothing listens there: tests/data downloads from a server.
            refused = normbench(*arguments, "--url", "http://127.0.0.1:9/x.tar.gz", "--data-dir", str(tmp_path))
            assert refused.code == 3, refused.err
            continue
        result = normbench(*arguments)
        assert result.code == 0, (line, result.err)
        assert result.out.strip(), line
    assert (tmp_path / "runs/train/report/report.html").exists()
    folders = {path.parent.name for path in tmp_path.glob("runs/*/experiment.yaml")}
    named = {re.sub("-[0-9a-f]{6}$", "", name) for name in folders}  # the hash is of the fewer images
    assert named == {"train", "bn_gn_gn+ws-resnet9-e1", "bn_gn_mynorm-norm_resnet_small-e1", "tutorial"}


@pytest.mark.parametrize("line", MAKE)
def test_a_make_target_exists(line: str) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert plan.returncode == 0, plan.stderr
    assert ".venv/bin" in plan.stdout


def test_the_config_example_is_valid(normbench: Callable[..., Any], tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    assert len(yaml.safe_load(example)["norms"]) == 3
    result = normbench("compare", "example.yaml", "--dry-run", "--device", "cpu")
    assert result.code == 0, result.err
    assert result.out.count("norm_resnet-bs64") == 9


@pytest.mark.usefixtures("normbench")
def test_the_python_examples_run() -> None:
    comparison, layers = [block for block in blocks("python") if "class MyNorm" not in block]
    assert comparison.count("seeds=3") == 1
    less = (
        "seeds=1, epochs=1, device='cpu', dataset={'name': 'synthetic', 'options': {'num_train': 64, 'num_test': 40}}"
    )
    names: dict[str, Any] = {}
    exec(comparison.replace("seeds=3", less), names)
    assert [row["norm"] for row in names["rows"]] == ["bn", "gn"]
    exec(layers, names)
    assert names["logits"].shape == (2, 10)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_given(page: Path) -> None:
    """Parsed as the program does it, up to the values of flags; nothing is run."""
    for line in all_commands(page.read_text(encoding="utf-8")):
        command: Any = ROOT_COMMAND
        words = shlex.split(line)[1:]
        while hasattr(command, "commands"):
            if not words or words[0].startswith("-") or words[0].isupper():
                break
            assert words[0] in command.commands, line
            command, words = command.commands[words[0]], words[1:]
        if hasattr(command, "commands") or not words:
            continue
        try:
            command.make_context("normbench", list(words)).close()
        except Exception as error:
            if getattr(error, "exit_code", 1) != 0:  # that is how `--help` ends
                pytest.fail(f"{line}: {error}")


def test_the_commands_of_a_page_are_found_in_all_their_forms() -> None:
    page = "    normbench ls  # all\n\n`normbench show RUN` and\n```sh\nnormbench table x > y\n```\n`normbench a ...`\n"
    assert all_commands(page) == ["normbench ls", "normbench table x", "normbench show RUN"]


def test_the_chinese_readme_is_in_step() -> None:
    """The same code but for its comments, the same sections, links and table rows."""

    def code(page: str) -> list[list[str]]:
        found = re.findall(r"```(.*?)```", page, re.DOTALL)
        return [[re.split(r" *#", line)[0].rstrip() for line in block.splitlines()] for block in found]

    def headings(page: str) -> list[str]:
        return re.findall(r"^#+(?= )", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)

    def links(page: str) -> list[str]:
        return sorted(link for link in re.findall(r"\]\(([^)\s]+)\)", page) if not link.startswith(("#", "README")))

    assert code(CHINESE) == code(README)
    assert headings(CHINESE) == headings(README)
    assert links(CHINESE) == links(README)
    assert CHINESE.count("\n|") == README.count("\n|")
    numbers = [set(re.findall(r"\d+\.\d+(?:e-\d)?", page)) for page in (README, CHINESE)]
    assert numbers[0] ^ numbers[1] <= {"1.56"}  # million, which Chinese counts in ten thousands
