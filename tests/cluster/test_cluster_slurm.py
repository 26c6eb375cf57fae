"""The job scripts of docs/cluster: what they run, with Slurm and Ray replaced by programs that write it down."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).parents[2] / "docs" / "cluster"
FAKES = {
    "scontrol": '[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"',
    # as srun does, start the program that follows its own options, with the job's environment
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"',
    "ray": 'echo "ray $* (auth $RAY_AUTH_MODE, ${#RAY_AUTH_TOKEN} characters)" >> called\n'
    'while [ "$1" != "--" ]; do shift; done; shift; "$@"',
    "normbench": 'echo "normbench $*" >> called; exit 7',
}


@pytest.fixture
def job(tmp_path: Path):
    """Run a script as Slurm would, in `tmp_path`; return the exit code and what was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in FAKES.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)

    def run(script: str, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
        command = ["bash", str(SCRIPTS / script), *arguments]
        code = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode
        called = tmp_path / "called"
        return code, called.read_text().splitlines() if called.exists() else []

    return run


def test_the_job_starts_ray_on_all_nodes_and_the_comparison_on_the_first(job) -> None:
    code, called = job(
        "slurm.sh", "all", SLURM_JOB_ID="4242", SLURM_JOB_NODELIST="node[1-2]", SLURM_JOB_NUM_NODES="2",
        SLURM_CPUS_PER_TASK="64", SLURM_GPUS_ON_NODE="8",
    )  # fmt: skip
    assert code == 7  # that of normbench
    assert called == [
        "ray symmetric-run --address node1:24242 --min-nodes 2 --num-cpus=64 --num-gpus=8 -- normbench compare all "
        "--cluster node1:24242 --runs-dir runs (auth token, 64 characters)",
        "normbench compare all --cluster node1:24242 --runs-dir runs",
    ]


def test_a_task_of_an_array_runs_its_shard(job) -> None:
    code, called = job("slurm_array.sh", "all", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="10")
    assert (code, called) == (7, ["normbench compare all --shard 3/10 --runs-dir part-3"])


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_array.sh"])
def test_a_job_without_a_config_says_how_it_is_used(job, script: str) -> None:
    assert job(script) == (1, [])
    assert subprocess.run(["bash", "-n", str(SCRIPTS / script)]).returncode == 0


@pytest.mark.parametrize(("name", "command"), [("kuberay.yaml", "entrypoint"), ("skypilot.yaml", "run")])
def test_the_examples_can_be_read_and_start_a_comparison(name: str, command: str) -> None:
    settings = yaml.safe_load((SCRIPTS / name).read_text())
    assert "normbench compare all --cluster" in {**settings, **settings.get("spec", {})}[command]
