"""docs/performance.md holds what its records say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SCRIPT = PAGE.with_name("performance_tables.py")


def test_tables_are_those_that_the_script_writes_from_the_records(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    emptied = re.sub(r"(<!-- table: \w+ -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    assert emptied != text
    page = tmp_path / "page.md"
    page.write_text(emptied, encoding="utf-8")
    subprocess.run([sys.executable, str(SCRIPT), str(page)], check=True)
    assert page.read_text(encoding="utf-8") == text, "run: python docs/performance_tables.py docs/performance.md"


def test_a_quotient_is_that_of_the_same_round() -> None:
    """On numbers that can be checked in the head."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from performance_tables import _against
    finally:
        sys.path.pop(0)
    ms, mad, quotient, above = _against([2e-3, 4e-3, 9e-3], [1e-3, 2e-3, 3e-3])
    assert (ms, mad) == (4.0, 2.0)
    assert quotient == 2.0
    assert abs(above - 2000) < 1e-6
