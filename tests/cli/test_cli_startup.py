"""What starts fast, and what a wrong command line is told."""

import subprocess
import sys
import time

import pytest
import typer
from command import environment, run

from normbench.cli import app
from normbench.cli.commands import HEADINGS

HEAVY = {"torch", "torchvision", "matplotlib", "scipy", "PIL", "numpy", "yaml"}


def imported_by(*arguments: str) -> tuple[set[str], str]:
    """The top-level modules that a command imports, and what it prints."""
    code = f"""
import sys
sys.argv = ["normbench", *{arguments!r}]
from normbench.cli import main
try:
    main()
finally:
    print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True, timeout=60
    )
    return set(result.stderr.split()), result.stdout


def test_help_imports_nothing_heavy() -> None:
    modules, out = imported_by("--help")
    assert not modules & (HEAVY | {"pydantic", "rich"})
    for command in ("train", "compare", "plots", "list", "data", "env"):
        assert command in out


def test_the_list_of_commands_has_the_words_of_their_own_help() -> None:
    """The list is written beside the commands, so that it imports none of them."""
    group = typer.main.get_group(app)
    for name, words in (entry for commands in HEADINGS.values() for entry in commands.items()):
        assert group.commands[name].help.split("\n")[0] == words


@pytest.mark.parametrize(
    "arguments",
    [("train", "--help"), ("list", "norms"), ("list", "configs", "--json")],
    ids=" ".join,
)
def test_other_quick_commands_import_no_heavy_library(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments)[0] & HEAVY


def test_plots_and_configs_need_no_torch() -> None:
    code = (
        "import sys; import normbench.config.load, normbench.runs.records, normbench.report; "
        "import normbench.experiment.plan; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def test_a_training_process_is_started_before_anything_heavy_is_imported() -> None:
    """It imports torch meanwhile, which takes longer than all that its parent imports."""
    code = "import sys; import normbench.experiment.worker_process; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert not set(result.stdout.split()) & (HEAVY | {"pydantic", "rich"})


def test_help_is_printed_in_a_fraction_of_a_second() -> None:
    """0.1 s on an idle machine; the bound allows for busy ones, and torch alone would cost seconds."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "normbench", "--help"], capture_output=True, env=environment(), check=True
        )
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0


def test_python_m_normbench_and_the_script_are_one_program(tmp_path) -> None:
    assert run(tmp_path, "--version").stdout.startswith("normbench 0.")
