"""The claims of papers about evaluation, held against records: tables of docs/results/evaluation.md and robustness.md.

Numbers are accuracies and errors in percent, compared by differences in points (docs/results_probes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from results_probes import Claim

from normbench.runs.evaluation_file import Evaluation, Statistics, Weights
from normbench.runs.records import RunRecord

Number = Callable[[RunRecord], float | None]

_NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")
_WITH_STATISTICS = ("bn", "brn")
_WITHOUT_STATISTICS = ("ln", "in", "gn", "gn+ws", "none")


def _percent(of: Callable[[Evaluation], float | None]) -> Number:
    def number(run: RunRecord) -> float | None:
        value = None if run.evaluation is None else of(run.evaluation)
        return None if value is None else 100 * value

    return number


def _accuracy(statistics: Statistics, batch_size: int | None = None, weights: Weights = "last") -> Number:
    return _percent(lambda entry: entry.with_statistics(statistics, batch_size, weights))


def _gap(entry: Evaluation) -> float | None:
    of_batch = entry.with_statistics("batch", 64, "last")
    return None if of_batch is None else abs(of_batch - entry.accuracy)


def _noise_error(entry: Evaluation) -> float | None:
    results = [] if entry.corruptions is None else entry.corruptions.results
    errors = [1 - result.accuracy for result in results if result.kind in _NOISES]
    return fmean(errors) if errors else None


_ERROR = _percent(lambda entry: None if entry.corruptions is None else entry.corruptions.mean_error)
_ADAPTED_ERROR = _percent(lambda entry: None if entry.corruptions is None else entry.corruptions.mean_adapted_error)


def _name(norm: str) -> str:
    return "No norm" if norm == "none" else norm.upper()


def _higher(text: str, norm: str, of: Number, than: Number) -> Claim:
    """Return the claim that one number of a norm's runs is higher than another of the same runs."""
    return Claim(text, norm, norm, of, is_lower=False, is_ratio=False, of_second=than)


CLAIMS: Mapping[str, Sequence[Claim]] = {
    "statistics": (
        _higher(
            "BN: re-estimated statistics are more accurate than running ones (Wu & Johnson)",
            "bn",
            _accuracy("re-estimated"),
            _percent(lambda entry: entry.accuracy),
        ),
        Claim(
            "BRN says more nearly the same in training and evaluation than BN (Ioffe)",
            "brn",
            "bn",
            _percent(_gap),
            is_ratio=False,
        ),
    ),
    "averaged": (
        *(
            _higher(
                f"{_name(norm)}: averaged weights are more accurate than the last",
                norm,
                _accuracy(statistics, weights="average"),
                _accuracy(statistics) if statistics == "re-estimated" else _percent(lambda entry: entry.accuracy),
            )
            for norms, statistics in ((_WITH_STATISTICS, "re-estimated"), (_WITHOUT_STATISTICS, "running"))
            for norm in norms
        ),
        *(
            _higher(
                f"{_name(norm)}: averaged weights need statistics of their own",
                norm,
                _accuracy("re-estimated", weights="average"),
                _accuracy("running", weights="average"),
            )
            for norm in _WITH_STATISTICS
        ),
    ),
    "robustness": (
        Claim(
            "BN errs less with statistics of the corrupted images (Nado et al., Schneider et al.)",
            "bn",
            "bn",
            _ADAPTED_ERROR,
            is_ratio=False,
            of_second=_ERROR,
        ),
        Claim("GN errs less than BN as trained (Schneider et al.)", "gn", "bn", _ERROR, is_ratio=False),
        Claim(
            "BN with statistics of the corrupted images errs less than GN (Schneider et al.)",
            "bn",
            "gn",
            _ADAPTED_ERROR,
            is_ratio=False,
            of_second=_ERROR,
        ),
        Claim(
            "Under noise BN errs more than no norm (Galloway et al.)",
            "bn",
            "none",
            _percent(_noise_error),
            is_lower=False,
            is_ratio=False,
        ),
    ),
}
"""By the name of a table; the page says which paper each is of."""
