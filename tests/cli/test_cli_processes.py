"""The whole program in processes of its own, interrupted, terminated and killed: forked, so that torch is there."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from command import LONG, num_epochs, signal_group, wait_for, worker_pids
from forked_program import ForkedProgram, import_all, quick_ending  # noqa: F401 (a fixture)

from normbench.runs.records import RunRecord, read_run

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="workers are found through Linux's /proc"),
    pytest.mark.usefixtures("quick_ending"),
]


LONGER = LONG.replace("500", "20000")


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    import_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "long.yaml").write_text(LONG)
    return tmp_path


def record(folder: Path, name: str) -> RunRecord:
    (path,) = folder.glob(f"runs/long/{name}-*")
    return read_run(path)


def test_killed_interrupted_and_terminated_programs_lose_and_double_nothing(folder) -> None:
    (folder / "long.yaml").write_text(LONGER)
    with ForkedProgram(folder, "compare", "long.yaml") as first:
        wait_for(lambda: num_epochs(folder, "bn-") >= 1)
        wait_for(lambda: len(worker_pids(first)) == 1)  # what described the machine has ended
        (worker,) = worker_pids(first)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: num_epochs(folder, "gn-") >= 1)  # the other run goes on, in another process

        config = record(folder, "gn").folder / "config.yaml"
        with ForkedProgram(folder, "train", "--config", str(config), "--name", "long") as other:
            wait_for(lambda: other.told() == "GN seed 0: another process is training it; left to that\n")
            assert other.poll() is None  # it waits for the run
            other.terminate()
            other.communicate(timeout=60)
        assert other.returncode == 143

        signal_group(first, signal.SIGINT)
        out, err = first.communicate(timeout=100)
    assert first.returncode == 130
    assert "Traceback" not in err
    assert "BN seed 0: interrupted: the training process was killed by SIGKILL" in err
    assert "stopping: running runs end their step" in err
    assert out.count("1 interrupted") == 2
    assert (folder / "runs" / "long" / "report" / "report.html").exists()
    assert record(folder, "bn").status.state == "interrupted"
    gn = record(folder, "gn")
    assert gn.status.state == "interrupted"
    losses = torch.load(gn.folder / "checkpoint.pt", weights_only=True)["losses"]
    assert gn.total_losses.tolist() == pytest.approx(losses[:, 0].tolist(), rel=1e-6)

    with ForkedProgram(folder, "train", "--config", str(config), "--name", "long") as second:
        wait_for(lambda: num_epochs(folder, "gn-") >= len(gn.epochs) + 2)
        wait_for(lambda: len(worker_pids(second)) == 1)
        (worker,) = worker_pids(second)
        second.kill()  # it goes on, and is killed without a word
        err = second.communicate(timeout=100)[1]
    assert f"GN seed 0: goes on after epoch {len(gn.epochs)}" in err
    wait_for(lambda: not Path(f"/proc/{worker}").exists())  # the orphan saves a checkpoint and ends
    assert record(folder, "gn").status.state == "interrupted"

    with ForkedProgram(
        folder, "train", "--config", str(config), "--name", "long"
    ) as third:  # from what the orphan saved
        wait_for(lambda: json.loads((gn.folder / "status.json").read_text())["pid"] == third.pid)
        num_before = num_epochs(folder, "gn-")
        wait_for(lambda: num_epochs(folder, "gn-") > num_before)
        third.terminate()
        err = third.communicate(timeout=100)[1]
    assert third.returncode == 143
    assert "Traceback" not in err
    assert num_before >= len(gn.epochs) + 2
    gn = record(folder, "gn")
    assert gn.status.state == "interrupted"
    assert [row.epoch for row in gn.epochs] == list(range(1, len(gn.epochs) + 1))
    steps = [int(line.split(",")[0]) for line in (gn.folder / "steps.csv").read_text().splitlines()[1:]]
    assert steps == list(range(len(steps)))
    assert len(steps) >= gn.epochs[-1].num_steps


def test_a_checkpoint_that_does_not_fit_the_disk_is_told_and_the_records_stay(folder) -> None:
    """A file-size limit of 0.5 MiB, for a full disk: the checkpoint has 1.2."""

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
    process = ForkedProgram(folder, "compare", "long.yaml")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with process:
        wait_for(lambda: num_epochs(folder) >= 1)
        signal_group(process, signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in err
    bn = record(folder, "bn")
    assert bn.status.state == "interrupted"
    assert "the checkpoint cannot be written" in bn.status.reason
    assert len(bn.epochs) >= 1
    assert not list(bn.folder.glob("*.p*t*")), list(bn.folder.iterdir())
