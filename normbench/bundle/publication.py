"""What is published, and how it is cited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Publication:
    """A verified bundle and where it is to go."""

    bundle: Path
    result_id: str
    target: str
    """The address for people."""
    readme: str
    """The bundle's README."""
    metadata: dict[str, Any]
    """The bundle's `.zenodo.json`."""

    @property
    def title(self) -> str:
        """The result's title."""
        return str(self.metadata.get("title") or self.bundle.stem)

    @property
    def authors(self) -> list[str]:
        """The result's authors; none where the bundle names none."""
        creators = self.metadata.get("creators")
        named = creators if isinstance(creators, list) else []
        return [str(creator["name"]) for creator in named if isinstance(creator, dict) and "name" in creator]

    def bibtex(self, published: Published) -> str:
        """Return how the result is cited in LaTeX."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors) or "{anonymous}",
            "year": str(self.metadata.get("publication_date", ""))[:4],
            "doi": published.doi,
            "url": published.url,
            "note": f"NormBench result {self.result_id}",
        }
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
        return f"@misc{{normbench-{self.result_id[:8]},\n{lines}}}"


@dataclass(frozen=True)
class Published:
    """Where a result can be found now."""

    url: str
    doi: str | None = None
    remark: str = ""
    """What is left to do."""
