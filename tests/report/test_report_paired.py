from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from normbench.report.paired import MIN_SEEDS, Scores, paired_difference, sign_flip_p
from normbench.report.power import seeds_to_resolve
from normbench.report.verdicts import compare_to_baseline, holm, rank_ranges

MARGIN = 0.005


def scores(*values: float) -> Scores:
    return dict(enumerate(values))


def mean_of(sample: np.ndarray, axis: int) -> np.ndarray:
    return sample.mean(axis=axis)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_sign_flip_agrees_with_scipys_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1.0, n)
    oracle = scipy_stats.permutation_test(
        (differences,), mean_of, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_p(differences) == pytest.approx(oracle.pvalue)


def test_smallest_sign_flip_p_is_two_in_two_to_the_n() -> None:
    for n in range(1, 9):
        assert sign_flip_p(np.linspace(0.5, 1.0, n)) == pytest.approx(2 / 2**n)


def test_sign_flip_beyond_enumeration_is_close_to_exact_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.25, 1.0, 12)
    exact = sign_flip_p(differences)
    monkeypatch.setattr("normbench.report.paired.MAX_EXACT_SEEDS", 11)
    drawn = sign_flip_p(differences)
    assert drawn == pytest.approx(exact, abs=0.01)
    assert drawn != exact
    assert drawn == sign_flip_p(differences)


def test_holm_by_hand() -> None:
    # 4 * 0.005; 3 * 0.01; 2 * 0.03; 1 * 0.04 raised to its predecessor's 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_paired_t_agrees_with_scipy_and_pairs_by_seed() -> None:
    candidate = {0: 0.71, 1: 0.735, 2: 0.722, 7: 0.60}
    baseline = {2: 0.731, 0: 0.722, 1: 0.739, 9: 0.99}
    found = paired_difference(candidate, baseline)
    assert found is not None
    oracle = scipy_stats.ttest_rel([0.71, 0.735, 0.722], [0.722, 0.739, 0.731])
    assert found.estimate.n == 3
    assert found.t_p == pytest.approx(oracle.pvalue)
    differences = np.array([0.71 - 0.722, 0.735 - 0.739, 0.722 - 0.731])
    assert found.cohens_dz == pytest.approx(differences.mean() / differences.std(ddof=1))
    interval = oracle.confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high))
    assert paired_difference({0: 0.5}, {1: 0.5}) is None


def test_verdicts() -> None:
    baseline = scores(0.750, 0.752, 0.748, 0.751, 0.749)
    noise = np.array([0.001, -0.001, 0.0005, -0.0005, 0.0])
    found = compare_to_baseline(
        {
            "up": scores(*(np.array(list(baseline.values())) + 0.02 + noise)),
            "down": scores(*(np.array(list(baseline.values())) - 0.02 + noise)),
            "same": scores(*(np.array(list(baseline.values())) + noise)),
            "open": scores(0.77, 0.74, 0.76, 0.745, 0.758),
            "other seeds": {9: 0.9},
        },
        baseline,
        MARGIN,
    )
    assert {name: comparison.verdict for name, comparison in found.items()} == {
        "up": "better",
        "down": "worse",
        "same": "equivalent",
        "open": "not resolved",
    }
    assert found["open"].seeds_to_resolve is not None
    assert found["open"].seeds_to_resolve > 5
    assert found["up"].seeds_to_resolve is None


def test_two_seeds_never_decide_however_alike_their_differences() -> None:
    found = compare_to_baseline({"gn": scores(0.800001, 0.700002)}, scores(0.70, 0.60), MARGIN)["gn"]
    assert found.difference.t_p is not None
    assert found.difference.t_p < 1e-4
    assert (found.verdict, found.holm_p) == ("not resolved", None)
    assert rank_ranges({"bn": scores(0.70, 0.60), "gn": scores(0.800001, 0.700002)}) == {"bn": (1, 2), "gn": (1, 2)}


def test_differences_without_spread_decide_nothing() -> None:
    candidate, baseline = scores(0.7407, 0.5126, 0.6456), scores(0.7287, 0.5006, 0.6336)
    found = compare_to_baseline({"gn": candidate}, baseline, MARGIN)["gn"]
    assert found.difference.estimate.std is not None
    assert found.difference.estimate.std > 0, "rounding alone, which must not count as spread"
    assert found.verdict == "not resolved"
    assert found.difference.t_p is None


def test_holm_counts_every_norm_that_is_tested() -> None:
    rng = np.random.default_rng(3)
    baseline = scores(*(0.75 + 0.002 * rng.standard_normal(4)))
    borderline = scores(*(np.array(list(baseline.values())) + np.array([0.012, 0.004, 0.009, 0.013])))
    alone = compare_to_baseline({"gn": borderline}, baseline, MARGIN)["gn"]
    noise = {f"norm{index}": scores(*(0.75 + 0.01 * rng.standard_normal(4))) for index in range(9)}
    among_ten = compare_to_baseline({"gn": borderline, **noise}, baseline, MARGIN)["gn"]
    assert alone.verdict == "better"
    assert among_ten.verdict == "not resolved"
    assert alone.difference == among_ten.difference


def test_margin_decides_what_is_equivalent() -> None:
    baseline = scores(0.750, 0.752, 0.748, 0.751)
    candidate = scores(0.751, 0.750, 0.749, 0.752)
    assert compare_to_baseline({"gn": candidate}, baseline, margin=0.005)["gn"].verdict == "equivalent"
    assert compare_to_baseline({"gn": candidate}, baseline, margin=0.001)["gn"].verdict == "not resolved"


@pytest.mark.parametrize(("mean", "std", "num_tests"), [(0.01, 0.01, 1), (0.02, 0.01, 3), (0.008, 0.01, 1)])
def test_seeds_to_resolve_has_the_power_it_promises(mean: float, std: float, num_tests: int) -> None:
    n = seeds_to_resolve(mean, std, num_tests, margin=0.001)
    assert n is not None

    def power(seeds: int) -> float:  # exact, by the noncentral t distribution
        critical = scipy_stats.t.ppf(1 - 0.05 / (2 * num_tests), seeds - 1)
        return float(scipy_stats.nct.sf(critical, seeds - 1, mean / std * np.sqrt(seeds)))

    assert power(n) > 0.75
    assert n == MIN_SEEDS or power(n - 2) < 0.8


@pytest.mark.parametrize(("mean", "num_tests"), [(0.0, 1), (0.0, 3), (0.0005, 1), (0.001, 3)])
def test_seeds_to_resolve_has_its_power_where_norms_are_equivalent_too(mean: float, num_tests: int) -> None:
    std = 0.007
    n = seeds_to_resolve(mean, std, num_tests, MARGIN)
    assert n is not None

    def power(seeds: int) -> float:
        runs = np.random.default_rng(seeds).normal(mean, std, size=(40_000, seeds))
        error = runs.std(axis=1, ddof=1) / np.sqrt(seeds)
        bound = scipy_stats.t.ppf(1 - 0.05 / num_tests, seeds - 1)
        return float(np.mean(np.abs(runs.mean(axis=1)) + bound * error < MARGIN))

    assert power(n) == pytest.approx(0.8, abs=0.04)
    assert power(n - 3) < 0.8


def test_equivalence_is_two_one_sided_tests_at_five_percent() -> None:
    differences = np.array([0.001, 0.003, -0.002, 0.0025, 0.0005])
    found = paired_difference(scores(*(0.7 + differences)), scores(*np.full(5, 0.7)))
    assert found is not None
    lower = scipy_stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
    upper = scipy_stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
    assert found.test.equivalence_p(MARGIN) == pytest.approx(max(lower, upper))


def test_chances_are_those_of_the_posterior_and_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(8)
    baseline, candidate = 0.7 + 0.01 * rng.standard_normal(6), 0.702 + 0.01 * rng.standard_normal(6)
    found = paired_difference(scores(*candidate), scores(*baseline))
    assert found is not None
    assert found.correlation == pytest.approx(scipy_stats.pearsonr(candidate, baseline).statistic)
    differences = candidate - baseline
    posterior = scipy_stats.t(5, differences.mean(), differences.std(ddof=1) / np.sqrt(6))
    expected = (posterior.sf(MARGIN), posterior.cdf(MARGIN) - posterior.cdf(-MARGIN), posterior.cdf(-MARGIN))
    assert found.test.chances(MARGIN) == pytest.approx(expected)


def test_seeds_to_resolve_gives_up_on_hopeless_questions() -> None:
    assert seeds_to_resolve(0.005, 10.0, num_tests=1, margin=0.01) is None
    assert seeds_to_resolve(0.0, 0.001, num_tests=1, margin=0.005) == MIN_SEEDS


def test_ranks_show_ties_as_ranges() -> None:
    spread = np.array([0.001, -0.001, 0.0, 0.0005])
    found = rank_ranges(
        {
            "best": scores(*(0.80 + spread)),
            "tied a": scores(*(0.70 + 3 * spread)),
            "tied b": scores(*(0.7004 - 4 * spread)),
            "last": scores(*(0.60 + 2 * spread)),
            "nothing": {},
        }
    )
    assert found == {"best": (1, 1), "tied a": (2, 3), "tied b": (2, 3), "last": (4, 4)}


def test_where_less_is_better_a_lower_score_wins() -> None:
    losses = {"gn": scores(0.20, 0.21, 0.19, 0.20), "in": scores(0.41, 0.40, 0.42, 0.43)}
    baseline = scores(0.30, 0.31, 0.30, 0.29)
    found = compare_to_baseline(losses, baseline, MARGIN, higher_is_better=False)
    assert {name: comparison.verdict for name, comparison in found.items()} == {"gn": "better", "in": "worse"}
    assert found["gn"].difference.estimate.mean == pytest.approx(-0.1)
    ranks = rank_ranges({**losses, "bn": baseline}, higher_is_better=False)
    assert ranks == {"gn": (1, 1), "bn": (2, 2), "in": (3, 3)}
