"""The tables of claims on docs/results/why.md say what SciPy says of the recorded numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.report.columns import format_p
from normbench.report.page import Report
from normbench.runs.records import read_experiment
from tests.report.conftest import make_run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from results_probes import CLAIMS, band_claims, claims  # noqa: E402

SEEDS = range(4)
RNG = np.random.default_rng(0)
RANGES = {"bn": 0.1 * np.exp(0.1 * RNG.standard_normal(4)), "none": 0.4 * np.exp(0.1 * RNG.standard_normal(4))}
"""Greatest less least loss, by norm and seed."""
CHANGES = {"bn": 2.0 + 0.01 * RNG.standard_normal(4), "none": 1.0 + 0.01 * RNG.standard_normal(4)}
"""The gradient's change: greater with bn, against the claim."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("claims") / "why"
    for norm in ("bn", "none"):
        for seed in SEEDS:
            run = make_run(folder, norm, seed, epochs=2, steps_per_epoch=100)
            row = {
                "loss": 2.0, "gradient_norm": 1.0, "weight_norm": 9.0, "step_sizes": [0.1], "cosines": [0.5],
                "losses": [2.0 - RANGES[norm][seed]], "gradient_distances": [CHANGES[norm][seed]],
            }  # fmt: skip
            (run / "probes").mkdir()
            (run / "probes" / "landscape.jsonl").write_text(
                "".join(json.dumps({"step": s, **row}) + "\n" for s in (0, 100))
            )
    return Report(read_experiment(folder))


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_claim_is_tested_by_pairs_of_seeds_and_adjusted_over_the_table(report: Report) -> None:
    varies, changes, cosine, smoothness = rows_of(claims(report, CLAIMS["smoothness"]))
    logs = np.log(RANGES["bn"] / RANGES["none"])
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert varies[1:3] == [f"{stats.gmean(RANGES[norm]):.3g}" for norm in ("bn", "none")]
    assert varies[3] == f"x {np.exp(logs.mean()):.3g} [{np.exp(low):.3g}, {np.exp(high):.3g}]"
    assert varies[5] == "confirmed"
    p = stats.ttest_rel(*(np.log(RANGES[norm]) for norm in ("bn", "none"))).pvalue
    others = [stats.ttest_rel(*(np.log(CHANGES[norm]) for norm in ("bn", "none"))).pvalue] * 2  # smoothness, too
    assert min(others) < p, "three tests have a p, of which this is the greatest"
    assert varies[4] == format_p(max(p, 3 * min(others)))
    assert changes[5] == smoothness[5] == "contradicted"
    assert cosine[3:] == ["+0.000 [+0.000, +0.000]", "-", "not resolved"], "equal everywhere: nothing to test"


def test_the_band_over_learning_rates_is_that_of_each_seed(tmp_path: Path) -> None:
    for norm, gap in (("bn", 0.5), ("none", 1.0)):
        for seed in range(3):
            for rate in (1e-4, 1e-3):
                run = make_run(tmp_path, norm, seed, train={"learning_rate": rate}, folder_name=f"{norm}{rate}{seed}")
                level = 2.0 - (gap + 0.01 * seed) * (rate > 5e-4)
                (run / "steps.csv").write_text("step,loss\n" + "".join(f"{step},{level}\n" for step in range(5 * 782)))
    ((_, network, first, second, ratio, _, verdict),) = rows_of(band_claims(Report(read_experiment(tmp_path))))
    assert (network, first, second, verdict) == ("norm_resnet", "0.51", "1.01", "confirmed")
    assert ratio.startswith("x 0.505 [")
