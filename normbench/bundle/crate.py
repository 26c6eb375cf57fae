"""``ro-crate-metadata.json``: the bundle as an RO-Crate 1.1 that says which run made which files.

It follows the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5): an action for each run, whose
instrument is NormBench, whose objects are its config and whose results are its records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from normbench.bundle.description import Description
from normbench.runs.records import CONFIG_FILE, RunRecord

CRATE_FILE = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
_MEDIA_TYPES = {
    "cff": "text/yaml",
    "csv": "text/csv",
    "diff": "text/x-diff",
    "html": "text/html",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown",
    "pdf": "application/pdf",
    "png": "image/png",
    "tex": "application/x-tex",
    "yaml": "application/yaml",
}

Entity = dict[str, Any]


class FileFacts(NamedTuple):
    """What is said of a file."""

    size: int
    """In bytes."""
    sha256: str


def crate(description: Description, files: Mapping[str, FileFacts]) -> str:
    """Return the metadata of a bundle that holds `files`, and this one."""
    agents = [_agent(name) for name in description.credit.authors]
    software = _software(description)
    actions = [_action(description.experiment, run, files, agents) for run in description.runs]
    license_url = f"https://spdx.org/licenses/{description.credit.license}"
    graph = [
        {
            "@id": CRATE_FILE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": description.title,
            "description": description.abstract,
            "datePublished": description.date,
            "identifier": f"sha256:{description.result_id}",
            "license": {"@id": license_url},
            "conformsTo": {"@id": PROFILE},
            "hasPart": _references(files),
            "mentions": _references(action["@id"] for action in actions),
            **({"author": _references(agent["@id"] for agent in agents)} if agents else {}),
        },
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": license_url, "@type": "CreativeWork", "name": description.credit.license},
        *software.values(),
        *agents,
        *actions,
        *(_file(name, facts) for name, facts in files.items()),
    ]
    return json.dumps({"@context": _CONTEXT, "@graph": graph}, indent=1, ensure_ascii=False) + "\n"


def _software(description: Description) -> dict[str, Entity]:
    """Return an entity for each NormBench that trained a run."""
    return {
        _software_id(run): {
            "@id": _software_id(run),
            "@type": "SoftwareApplication",
            "name": "NormBench",
            "softwareVersion": _version(run),
            "description": "Compares normalization layers: trains networks with them and records the runs.",
        }
        for run in description.runs
    }


def _version(run: RunRecord) -> str:
    program = run.environment
    commit = f" at commit {program['commit']}" if program.get("commit") else ""
    changed = " with changes that were not committed" if program.get("dirty") else ""
    source = f", source SHA-256 {program['source_sha256']}" if program.get("source_sha256") else ""
    return f"{program.get('normbench', 'unknown')}{commit}{changed}{source}"


def _software_id(run: RunRecord) -> str:
    program = run.environment
    return f"#normbench-{program.get('source_sha256') or program.get('commit') or program.get('normbench', 'unknown')}"


def _action(folder: str, run: RunRecord, files: Mapping[str, FileFacts], agents: list[Entity]) -> Entity:
    own = [name for name in files if name.startswith(f"{folder}/{run.folder.name}/")]
    config = f"{folder}/{run.folder.name}/{CONFIG_FILE}"
    action: Entity = {
        "@id": f"#{run.folder.name}",
        "@type": "CreateAction",
        "name": f"Training of a network with {run.config.label}, seed {run.config.seed}",
        "description": " ".join(map(str, run.environment.get("argv", ()))) or "The command line was not recorded.",
        "instrument": {"@id": _software_id(run)},
        "object": {"@id": config},
        "result": _references(name for name in own if name != config),
        "startTime": run.status.started_at,
        "actionStatus": f"http://schema.org/{'Completed' if run.is_completed else 'Failed'}ActionStatus",
    }
    if run.status.ended_at:
        action["endTime"] = run.status.ended_at
    if not run.is_completed:
        action["error"] = run.status.reason or run.status.state
    if agents:
        action["agent"] = _references(agent["@id"] for agent in agents)
    return action


def _agent(name: str) -> Entity:
    return {
        "@id": f"#{quote(name)}",
        "@type": "Person" if "," in name else "Organization",
        "name": name,
    }


def _file(name: str, facts: FileFacts) -> Entity:
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "contentSize": str(facts.size),
        "sha256": facts.sha256,
        "encodingFormat": _MEDIA_TYPES.get(name.rpartition(".")[2], "text/plain"),
    }


def _references(ids: Iterable[str]) -> list[dict[str, str]] | dict[str, str]:
    """Return references as RO-Crate has them: a list, but a single one alone."""
    found = [{"@id": name} for name in ids]
    return found[0] if len(found) == 1 else found
