"""What the program answers to the shells' requests for completion, asked as their scripts ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def ask(normbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], str]:
    """Press TAB at the end of a line, in a folder with a config and an experiment of two runs."""
    for run in ("bn-s0", "gn-s0"):
        (tmp_path / "runs" / "first" / run).mkdir(parents=True)
    (tmp_path / "own.yaml").write_text("norms: [bn]")

    def press(shell: str, typed: str) -> str:
        request = {
            "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))},
            "zsh": {"_TYPER_COMPLETE_ARGS": typed},
            "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        for name, value in {"_NORMBENCH_COMPLETE": f"complete_{shell}", **request}.items():
            monkeypatch.setenv(name, value)
        return str(normbench().out)

    return press


@pytest.mark.parametrize(
    ("shell", "typed", "expected"),
    [
        ("bash", "normbench compare tut", "tutorial"),
        ("bash", "normbench compare ow", "own.yaml"),
        ("bash", "normbench train --device cu", "cuda"),
        ("bash", "normbench show runs/fi", "runs/first/\nruns/first/bn-s0/\nruns/first/gn-s0/"),
        ("zsh", "normbench train --norm gn+", '"gn+ws":"Weight Standardization"\n"gn+sws":"Scaled Weight'),
        ("zsh", "normbench compare bn --model resnet9", '"resnet9":"the small residual net'),
        ("zsh", "normbench table ", '"runs/first/"'),
        ("fish", "normbench list norms evonorm_s0", "evonorm_s0\tEvoNorm-S0"),
        ("fish", "normbench compare --norms bn,g", "bn,gn\tGroup Normalization"),
        ("fish", "normbench inspect frn custom", "custom_bn\tBatch Normalization written out"),
    ],
)  # fmt: skip
def test_the_shell_offers(ask, shell: str, typed: str, expected: str) -> None:
    assert expected in ask(shell, typed)


def test_the_shell_offers_only_what_begins_as_typed(ask) -> None:
    assert ask("bash", "normbench train --norm evonorm_b").split() == ["evonorm_b0", "evonorm_b1", "evonorm_b2"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_given_a_script_that_asks_the_program(normbench, shell: str, monkeypatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = normbench("--show-completion", shell)
    assert result.code == 0
    assert f"complete_{shell}" in result.out
