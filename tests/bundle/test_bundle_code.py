"""Runs of a norm of their author's own: its code goes along, is checked, and is executed only where that is asked."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from zipped_bundle import changed, contents

import normbench
from normbench.bundle.description import Credit
from normbench.bundle.rerun import rerun_some
from normbench.bundle.rules import check_run_ids
from normbench.bundle.verify import Verification
from normbench.bundle.write import write_bundle
from normbench.errors import ConfigError
from normbench.report.page import Report
from normbench.runs.records import read_experiment

NORM = """
import torch
from torch import nn


class Halved(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2
"""


@pytest.fixture
def own(tmp_path: Path, training_here: None, config_of: Callable[..., dict[str, object]]) -> Path:
    """The bundle of one run of such a norm, made in a folder that is gone afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "halved.py").write_text(NORM)
    config = config_of(norms=[f"{home / 'halved.py'}:Halved"], seeds=1, name="own")
    normbench.compare(config, runs_dir=tmp_path / "runs", listener=lambda _: None)
    (home / "halved.py").unlink()
    write_bundle(tmp_path / "runs" / "own", tmp_path / "own.nbz", Credit())
    return tmp_path / "own.nbz"


@pytest.mark.slow  # it trains twice
def test_own_code_is_a_record_that_runs_when_asked_for_only(own: Path, tmp_path: Path) -> None:
    files = contents(own)
    (name,) = [name for name in files if name.endswith("halved.py")]
    assert files[name].decode() == NORM
    assert (
        f"{hashlib.sha256(NORM.encode()).hexdigest()}  {name.partition('/')[2]}\n" in files["own/SHA256SUMS"].decode()
    )
    assert str(tmp_path) not in b"".join(files.values()).decode(errors="replace")
    report = Report(read_experiment(own / "own"))
    assert list(check_run_ids(report)) == []

    verified = Verification(own, None, 1, ())
    with pytest.raises(
        ConfigError, match=r"0 completed runs of classifiers without code of their author's.*--run-code"
    ):
        rerun_some(verified, 1)
    (check,) = rerun_some(verified, 1, run_code=True).checks
    assert (check.passed, check.said[:13]) == (True, "the same bits"), check

    worse = changed(own, tmp_path / "worse.nbz", {name: NORM.replace("/ 2", "/ 3").encode()}, with_sums=True)
    (problem,) = check_run_ids(Report(read_experiment(worse / "own")))
    assert problem.endswith("halved.py is not the code that its config names")
    assert json.loads(contents(worse)["bundle.json"])["result_id"] != json.loads(files["bundle.json"])["result_id"]
