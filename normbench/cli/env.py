"""``normbench env``: versions and hardware, to paste into a bug report."""

from __future__ import annotations

import json

from normbench.cli.options import JsonOption


def env(json_output: JsonOption = False) -> None:
    """Print versions, device and CPU: what to paste into a bug report."""
    from importlib.metadata import PackageNotFoundError, version

    from normbench.engine.device import describe, resolve_device
    from normbench.runs.provenance import describe_program

    facts = describe_program() | describe(resolve_device("auto"))
    for package in ("torchvision", "numpy", "scipy", "matplotlib", "pydantic", "typer"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "missing"
    del facts["argv"]
    if json_output:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    facts["commit"] = facts["commit"] or "unknown (not run from a checkout)"
    facts["dirty"] = "-" if facts["dirty"] is None else "yes" if facts["dirty"] else "no"
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
