"""Every page of results has a bundle beside it that can be verified, or says why it has none."""

import re
from pathlib import Path

import pytest

from normbench.bundle.rules import RULES
from normbench.bundle.verify import verify

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "results").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_results_has_a_bundle_or_says_why_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made_of = re.findall(r"<!-- (\S+\.(?:nbz|json)): ", text)
    assert made_of or "There is no [bundle](../bundles.md) of" in text
    assert all((page.parent / record).is_file() for record in made_of)
    for bundle in page.parent.glob(f"{page.stem}*.nbz"):
        if bundle.stem != page.stem and bundle.with_suffix(".md").is_file():
            continue  # that of a page whose name begins like this one's
        assert f"({bundle.name})" in text


@pytest.mark.parametrize("bundle", sorted((DOCS / "results").rglob("*.nbz")), ids=lambda bundle: bundle.stem)
def test_a_bundle_of_results_is_verified(bundle: Path) -> None:
    assert verify(bundle).verified


def test_no_bundle_of_results_makes_a_clone_slow() -> None:
    sizes = {bundle.name: bundle.stat().st_size for bundle in (DOCS / "results").rglob("*.nbz")}
    assert {name: size for name, size in sizes.items() if size > 6_000_000} == {}, "run: normbench bundle --small"


def test_every_rule_is_described() -> None:
    text = (DOCS / "bundles.md").read_text(encoding="utf-8")
    for name in ("archive", "checksums", "result id", *RULES, "tables"):
        assert f"\n| {name} | " in text
