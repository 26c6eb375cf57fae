"""What a bundle says about its result to people, catalogues and search engines: README, citation, metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from normbench.report.formats import escape_markdown, to_markdown
from normbench.report.page import Report
from normbench.runs.bundle_file import SUMS_FILE
from normbench.runs.provenance import PROVENANCE_FOLDER
from normbench.runs.records import EXPERIMENT_FILE, RunRecord
from normbench.version import __version__

README_FILE = "README.md"
CITATION_FILE = "CITATION.cff"
ZENODO_FILE = ".zenodo.json"
KEYWORDS = ("normalization layers", "benchmark", "NormBench", "PyTorch")
DEFAULT_LICENSE = "CC-BY-4.0"


@dataclass(frozen=True)
class Credit:
    """What only the people behind a result can say of it."""

    authors: tuple[str, ...] = ()
    """``Family, Given`` of a person, or an organization's name."""
    title: str | None = None
    """If absent, it follows from the experiment."""
    license: str = DEFAULT_LICENSE
    """The identifier that SPDX gives to the licence of the records."""


@dataclass(frozen=True)
class Description:
    """A result and who made it."""

    experiment: str
    """The folder in the bundle."""
    result_id: str
    report: Report
    credit: Credit

    @property
    def runs(self) -> Sequence[RunRecord]:
        """All runs, probes too."""
        return [*self.report.experiment.runs, *self.report.experiment.probes]

    @property
    def title(self) -> str:
        """The result's title."""
        images = dict.fromkeys(part.data for part in self.report.parts)
        return self.credit.title or f"{self.experiment}: normalization layers compared on {' and '.join(images)}"

    @property
    def date(self) -> str:
        """The day on which the last run ended, ISO 8601."""
        return max(run.status.ended_at or run.status.started_at for run in self.runs)[:10]

    @property
    def abstract(self) -> str:
        """What was measured, in sentences."""
        norms = dict.fromkeys(row.label for table in self.report.tables for row in table.rows)
        devices = dict.fromkeys(str(run.environment.get("device_name", run.config.device)) for run in self.runs)
        completed = sum(run.is_completed for run in self.runs)
        return (
            f"{len(self.runs)} training runs ({completed} completed) that compare {', '.join(norms)}, on "
            f"{' and '.join(devices)}, recorded by NormBench. Result id (SHA-256 over the records): {self.result_id}."
        )

    @property
    def commits(self) -> list[str]:
        """The commits of NormBench that trained the runs, as far as they are known."""
        return sorted({str(run.environment["commit"]) for run in self.runs if run.environment.get("commit")})


def readme(description: Description) -> str:
    """Return the page that is read first: the tables, what is there, how to check it and how to run it again."""
    folder = description.experiment
    commits = ", ".join(f"`{commit}`" for commit in description.commits) or "unknown (installed from a package)"
    return f"""# {escape_markdown(description.title)}

{escape_markdown(description.abstract)}

{to_markdown(description.report.tables)}
## What is here

- `{folder}/`: the records of the experiment, as NormBench writes them; `{folder}/{SUMS_FILE}` lists them,
  and the SHA-256 of that list is the result's id.
- `{folder}/{PROVENANCE_FOLDER}/`: the versions of all packages, and the changes to NormBench's source that
  were not committed, where there were any.
- `{folder}/report/`: the page, tables and figures, made of the records.
- `{SUMS_FILE}` covers all files.

## Check it

```sh
normbench verify FILE.nbz              # checksums, consistency, and all tables again from the records
normbench verify FILE.nbz --rerun 2    # and two runs trained again
sha256sum -c {SUMS_FILE}                # after unzip, without NormBench
```

## Run it again

NormBench {__version__} wrote this file. The runs were trained at commit {commits}.

```sh
pip install -r {folder}/{PROVENANCE_FOLDER}/requirements-*.txt
git apply {folder}/{PROVENANCE_FOLDER}/changes-*.diff   # in a checkout of that commit, if there is such a file
normbench compare {folder}/{EXPERIMENT_FILE} --name {folder}
```

## Cite it

`{CITATION_FILE}` names title, authors and id. Cite NormBench itself, too.
"""


def citation(description: Description) -> str:
    """Return `CITATION.cff` of the result, in the Citation File Format 1.2.0."""
    authors = [_cff_author(name) for name in description.credit.authors] or [{"name": "anonymous"}]
    software = {"type": "software", "title": "NormBench", "authors": [{"name": "The NormBench developers"}]}
    versions = sorted({str(run.environment["normbench"]) for run in description.runs if "normbench" in run.environment})
    software |= {"version": ", ".join(versions)} if versions else {}
    software |= {"commit": description.commits[0]} if len(description.commits) == 1 else {}
    content: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use this result, please cite it with its id.",
        "type": "dataset",
        "title": description.title,
        "authors": authors,
        "date-released": description.date,
        "version": description.result_id[:16],
        "license": description.credit.license,
        "abstract": description.abstract,
        "keywords": list(KEYWORDS),
        "identifiers": [
            {
                "type": "other",
                "value": f"sha256:{description.result_id}",
                "description": f"SHA-256 of {description.experiment}/{SUMS_FILE}, which lists the records",
            }
        ],
        "references": [software],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def zenodo(description: Description) -> str:
    """Return `.zenodo.json`: the metadata of a deposit on Zenodo."""
    content = {
        "upload_type": "dataset",
        "title": description.title,
        "description": description.abstract,
        "creators": [{"name": name} for name in description.credit.authors],
        "publication_date": description.date,
        "license": description.credit.license.lower(),
        "keywords": list(KEYWORDS),
        "version": description.result_id[:16],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _cff_author(name: str) -> dict[str, str]:
    family, comma, given = (part.strip() for part in name.partition(","))
    return {"family-names": family, "given-names": given} if comma else {"name": name}
