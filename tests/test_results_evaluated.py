"""The tables of claims about evaluations say what SciPy says of the recorded numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.report.page import Report
from normbench.runs.records import read_experiment
from tests.report.test_report_evaluations import evaluation, write_evaluated_run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from results_evaluated import CLAIMS  # noqa: E402
from results_probes import claims  # noqa: E402

SEEDS = range(3)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("evaluated")
    for norm in ("bn", "gn"):
        for seed in SEEDS:
            write_evaluated_run(folder, norm, seed)
    return Report(read_experiment(folder))


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def interval(values: np.ndarray) -> str:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def accuracies(norm: str) -> np.ndarray:
    return 100 * np.array([evaluation(norm, seed).accuracy for seed in SEEDS])


def test_statistics_from_elsewhere_are_compared_within_a_run(report: Report) -> None:
    ((text, first, second, difference, _, verdict),) = rows_of(claims(report, CLAIMS["statistics"]))
    assert text.startswith("BN: re-estimated")
    assert (first, second) == (f"{0.9 * accuracies('bn').mean():.3g}", f"{accuracies('bn').mean():.3g}")
    assert difference == interval(-0.1 * accuracies("bn"))
    assert verdict == "contradicted"


def test_averaged_weights_are_compared_with_statistics_of_their_own_where_a_norm_has_them(report: Report) -> None:
    bn, gn, needs = rows_of(claims(report, CLAIMS["averaged"]))
    assert bn[3] == interval(0.05 * accuracies("bn"))
    assert gn[3] == interval(-0.3 * accuracies("gn"))
    assert needs[3] == interval(0.25 * accuracies("bn"))


def test_errors_on_corrupted_images_are_compared_as_trained_and_adapted(report: Report) -> None:
    errors = {norm: 100 - 0.7 * accuracies(norm) for norm in ("bn", "gn")}
    adapted = 100 - 0.85 * accuracies("bn")
    found = [row[3] for row in rows_of(claims(report, CLAIMS["robustness"]))]
    assert found == [
        interval(adapted - errors["bn"]),
        interval(errors["gn"] - errors["bn"]),
        interval(adapted - errors["gn"]),
    ]
