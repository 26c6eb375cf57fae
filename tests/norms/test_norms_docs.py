"""docs/norms.md is complete, agrees with the registry, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import normbench.norms
from normbench import NormResNet
from normbench.norms import NORMS, WEIGHTS, Norm, Option, catalog, factory, make_norm

PAGE = Path(__file__).parents[2] / "docs" / "norms.md"
SCRIPT = PAGE.with_name("norm_tables.py")
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_tables_are_those_that_the_script_writes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(re.sub(r"^\| .*\n", "", TEXT, flags=re.MULTILINE), encoding="utf-8")
    subprocess.run([sys.executable, str(SCRIPT), str(page)], check=True)
    written, expected = (
        re.findall(r"<!-- table: .*?<!-- end -->", text, re.DOTALL) for text in (page.read_text(), TEXT)
    )
    assert written == expected, "run: python docs/norm_tables.py docs/norms.md"
    assert sorted(table.split()[2] for table in written) == ["norms", "options", "weights"]


def test_there_is_a_section_for_everything_and_for_nothing_else() -> None:
    assert list(SECTIONS) == [*NORMS, *WEIGHTS]


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_described_in_full(name: str) -> None:
    section, norm = SECTIONS[name], NORMS[name]
    assert f"**{norm.full_name}**" in section
    assert re.search(r"```text\n.*\by = .*```", section, re.DOTALL)
    for item, value in (("Statistics over", norm.axes), ("Learned per channel", norm.learnable_per_channel)):
        assert f"- **{item}**: {value}\n" in section
    for item in ("At evaluation", "When", "Pitfalls", "Source"):
        assert len(re.search(rf"- \*\*{item}\*\*: (.+)", section)[1]) > 10
    assert norm.arxiv is None or f"https://arxiv.org/abs/{norm.arxiv}" in section
    assert ("same as in training" in section or "same formula as in training" in section) is not norm.train_eval_differ


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_weight_method_has_its_formula(key: str) -> None:
    assert "w' = " in SECTIONS[key]


def test_the_ten_lines_of_your_own_norm_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the entry as they stand on the page, put where the page says."""
    example = TEXT.partition("## Add your own norm")[2]
    file, entry, script = re.findall(r"```python\n(.*?)```", example, re.DOTALL)
    lines = [line for line in (file + entry).splitlines() if line.strip()]
    assert len(lines) == 10
    (tmp_path / "peak.py").write_text(file)
    monkeypatch.setattr(normbench.norms, "__path__", [*normbench.norms.__path__, str(tmp_path)])
    added = eval(f"{{{entry}}}", {"Norm": Norm, "Option": Option, "_EPS": catalog._EPS})
    monkeypatch.setattr(factory, "NORMS", {**NORMS, **added})
    monkeypatch.delitem(sys.modules, "normbench.norms.peak", raising=False)

    layer = make_norm("peak", eps=1.0).norm_act(2)
    x = torch.tensor([[[[1.0, -3.0]], [[0.0, 4.0]]]])
    assert torch.equal(layer(x), torch.tensor([[[[0.25, 0.0]], [[0.0, 0.8]]]]))
    with pytest.raises(ValueError, match="eps=0 is not allowed; it must be a number > 0"):
        make_norm("peak", eps=0)

    names: dict[str, object] = {"NormResNet": NormResNet}
    exec(script, names)
    assert names["net"](torch.zeros(2, 3, 32, 32)).shape == (2, 10)  # type: ignore[operator]
