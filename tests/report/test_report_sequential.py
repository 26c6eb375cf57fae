"""Seeds added until verdicts are resolved: the error that all looks make together, and what a report says of looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.report.page import Report
from normbench.report.sequential import SCHEDULE, Looks, schedule
from normbench.report.verdicts import Outcomes, judge, rank_ranges, weigh
from normbench.runs.looks_file import read_looks, record_look
from normbench.runs.records import read_experiment

MARGIN = 0.005


def looks_at(numbers: tuple[int, ...], maximum: int = 20) -> Looks:
    return Looks(tuple(frozenset(range(number)) for number in numbers), maximum)


def shares(maximum: int = 20) -> np.ndarray:
    """The share of the error at each look, by hand: of 20 seeds 3, 2, 3, 4 and 8 are new."""
    return np.diff(schedule(maximum), prepend=0) / maximum


def test_each_look_spends_what_its_new_seeds_are_of_the_most() -> None:
    assert schedule(20) == SCHEDULE == (3, 5, 8, 12, 20)
    assert schedule(10) == (3, 5, 8, 10)
    p_values = {3: 0.01, 5: 0.002, 8: 0.5}
    found = looks_at((3, 5, 8)).p(lambda seeds: p_values[len(seeds)])
    assert found == pytest.approx(min(0.01 / 0.15, 0.002 / 0.10, 0.5 / 0.15))
    assert looks_at((20,)).p(lambda _: 0.03) == pytest.approx(0.03), "one look at the end is an ordinary test"
    beyond = looks_at((20, 30)).p(lambda seeds: {20: 0.4, 30: 1e-9}[len(seeds)])
    assert beyond == 0.4, "nothing is left to spend"


def rejections(differences: np.ndarray, alpha: float, margin: float | None = None) -> np.ndarray:
    """The same rule in another form: the level of each look against scipy's t, for all experiments at once."""
    rejected = np.zeros(len(differences), dtype=bool)
    for n, share in zip(schedule(20), shares(), strict=True):
        values = differences[:, :n]
        error = values.std(axis=1, ddof=1) / np.sqrt(n)
        if margin is None:
            rejected |= np.abs(values.mean(axis=1)) / error > stats.t.ppf(1 - share * alpha / 2, n - 1)
        else:
            rejected |= (margin - np.abs(values.mean(axis=1))) / error > stats.t.ppf(1 - share * alpha, n - 1)
    return rejected


@pytest.mark.parametrize("num_norms", [1, 3])
def test_all_looks_together_make_at_most_5_percent_of_errors(num_norms: int) -> None:
    rng = np.random.default_rng(num_norms)
    runs = rng.normal(0, 1, size=(num_norms + 1, 20_000, 20))
    any_false = np.any([rejections(run - runs[0], 0.05 / num_norms) for run in runs[1:]], axis=0)
    assert any_false.mean() <= 0.05
    assert any_false.mean() > 0.03, "and not at the price of everything"
    at_the_margin = np.any([rejections(run - runs[0] + 2.0, 0.05 / num_norms, 2.0) for run in runs[1:]], axis=0)
    assert at_the_margin.mean() <= 0.05


def test_power_of_the_looks() -> None:
    differences = np.random.default_rng(0).normal(1, 1, size=(20_000, 20))
    assert rejections(differences, 0.05).mean() > 0.95
    equal = np.random.default_rng(0).normal(0, 1, size=(20_000, 20))
    assert rejections(equal, 0.05, margin=1.0).mean() > 0.95


def test_verdicts_over_looks_are_those_of_the_rule() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal([[0.004], [0.0], [0.008]] * 20, 0.006, size=(60, 20))
    expected = rejections(differences, 0.05)
    baseline = Outcomes(dict.fromkeys(range(20), 0.7))
    looks = looks_at(SCHEDULE)
    for row, is_rejected in zip(differences, expected, strict=True):
        evidence = weigh(Outcomes(dict(enumerate(0.7 + row))), baseline, MARGIN, looks=looks)
        assert evidence is not None
        found = judge({"gn": evidence})["gn"]
        assert (found.verdict in ("better", "worse")) == is_rejected


@pytest.mark.slow
def test_the_code_itself_makes_at_most_5_percent_of_errors_stopping_where_it_is_resolved() -> None:
    """Three equal norms, skewed accuracies, looked at and stopped as `compare --until-resolved` does."""
    num_experiments, false_alarms, false_ranks = 600, 0, 0
    rng = np.random.default_rng(7)
    for accuracies in 0.75 - 0.004 * rng.exponential(1.0, size=(num_experiments, 4, 20)):
        for number in range(1, len(SCHEDULE) + 1):
            looks = looks_at(SCHEDULE[:number])
            seeds = SCHEDULE[number - 1]
            baseline, *others = (Outcomes(dict(enumerate(row[:seeds]))) for row in accuracies)
            weighed = {index: weigh(other, baseline, 0.002, looks=looks) for index, other in enumerate(others)}
            verdicts = [found.verdict for found in judge({k: v for k, v in weighed.items() if v}).values()]
            if "not resolved" not in verdicts:
                break
        false_alarms += any(verdict in ("better", "worse") for verdict in verdicts)
        scores = {str(index): dict(enumerate(row[:seeds])) for index, row in enumerate(accuracies)}
        false_ranks += any(found != (1, 4) for found in rank_ranges(scores, looks=looks).values())
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_experiments)
    assert false_alarms / num_experiments <= bound
    assert false_ranks / num_experiments <= bound


def test_a_report_says_how_seeds_were_added(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    for seed in range(5):
        for norm in ("bn", "gn"):
            new_run(tmp_path, norm, seed, steps_per_epoch=2, epochs=2)
    record_look(tmp_path, range(3))
    record_look(tmp_path, range(2))
    assert Report(read_experiment(tmp_path)).tables[0].notes == (), "one look, whatever was run again"
    record_look(tmp_path, range(5))
    (note,) = Report(read_experiment(tmp_path)).tables[0].notes
    assert "3 and 5 seeds" in note
    assert "larger than 5 %" in note


def test_planned_looks_are_in_the_caption_and_the_verdict(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    for seed in range(5):
        new_run(tmp_path, "bn", seed, steps_per_epoch=2, epochs=2, accuracy=0.70 + 0.01 * seed)
        difference = [0.01, 0.03, 0.004, 0.02, 0.012][seed]
        new_run(tmp_path, "gn", seed, steps_per_epoch=2, epochs=2, accuracy=0.70 + 0.01 * seed + difference)
    (table,) = Report(read_experiment(tmp_path)).tables
    alone = table.rows[1].results["test_accuracy"].comparison
    record_look(tmp_path, range(3), 20)
    record_look(tmp_path, range(5), 20)
    (table,) = Report(read_experiment(tmp_path)).tables
    found = table.rows[1].results["test_accuracy"].comparison
    assert "looked at after 3 and 5" in table.caption
    assert table.notes == ()
    assert found is not None
    assert alone is not None
    assert alone.verdict == "better"
    assert (found.verdict, found.seeds_to_resolve) == ("not resolved", None)
    assert found.holm_p == pytest.approx(min(1, alone.difference.t_p / 0.10))  # type: ignore[operator]
    assert read_looks(tmp_path).maximum == 20
