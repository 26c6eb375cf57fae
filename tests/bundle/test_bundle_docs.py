"""Every page of results has a bundle beside it that can be verified, or says why it has none."""

from pathlib import Path

import pytest

from normbench.bundle.rules import RULES
from normbench.bundle.verify import verify

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "results").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_results_has_a_bundle_or_says_why_not(page: Path) -> None:
    bundles = sorted(page.parent.glob(f"{page.stem}*.nbz"))
    text = page.read_text(encoding="utf-8")
    assert bundles or "There is no [bundle](../bundles.md) of" in text
    for bundle in bundles:
        assert f"({bundle.name})" in text
        assert verify(bundle).verified


def test_every_rule_is_described() -> None:
    text = (DOCS / "bundles.md").read_text(encoding="utf-8")
    for name in ("archive", "checksums", "result id", *RULES, "tables"):
        assert f"\n| {name} | " in text
