"""The claims of two papers against what probes recorded: the tables of docs/results/why.md.

A claim says that a number is lower with one norm than with another, or higher. It is tested by the paired t test over
seeds of docs/statistics.md, on logarithms where numbers are compared by ratios, Holm-adjusted over all rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normbench.report.columns import Align, format_p
from normbench.report.curves import finite_part, smooth, smoothing_window
from normbench.report.figure_style import panels
from normbench.report.formats import markdown_grid
from normbench.report.grouping import Group
from normbench.report.page import Report
from normbench.report.paired import MIN_SEEDS, TTest, t_test
from normbench.report.probe_curves import Quantity, mean_of_training
from normbench.report.verdicts import holm
from normbench.report.why import CURVATURE, LANDSCAPE
from normbench.runs.records import RunRecord

ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """A number is lower (or higher) with the norm `first` than with `second`."""

    text: str
    first: str
    second: str
    of: Callable[[RunRecord], float | None]
    """The number of one run; None where it was not measured."""
    is_lower: bool = True
    is_ratio: bool = True
    """Whether the norms are compared by their ratio, of geometric means, and not by their difference."""
    of_second: Callable[[RunRecord], float | None] | None = None
    """The number of `second`'s runs, where it is another one than that of `first`'s."""


def _over_training(quantity: Quantity) -> Callable[[RunRecord], float | None]:
    def of(run: RunRecord) -> float | None:
        found = mean_of_training(Group.of(run), quantity)
        return None if found is None else found.mean

    return of


def _untrained(probe: str, of: Callable[..., float]) -> Callable[[RunRecord], float | None]:
    def first(run: RunRecord) -> float | None:
        rows = run.probe_rows.get(probe)
        return float(of(rows[0])) if rows and rows[0].step == 0 else None

    return first


def _santurkar(first: str, second: str, name: str) -> list[Claim]:
    variation, change, cosine, smoothness = map(_over_training, LANDSCAPE[:4])
    return [
        Claim(f"{name} the loss varies less along the gradient", first, second, variation),
        Claim(f"{name} the gradient changes less", first, second, change),
        Claim(
            f"{name} gradients stay more alike (least cosine)", first, second, cosine, is_lower=False, is_ratio=False
        ),
        Claim(f"{name} the effective smoothness is lower", first, second, smoothness),
        Claim(f"{name} the Hessian's eigenvalue is lower", first, second, _over_training(CURVATURE[0])),
    ]


def _growth(row: object) -> float:
    norms = row.norms  # type: ignore[attr-defined]
    return float(norms[-1].before.std / norms[0].before.std)


_GROWTH = _untrained("signals", _growth)
_SIMILARITY = _untrained("signals", lambda row: row.norms[-1].similarity)
_FIRST_GRADIENT = _untrained("signals", lambda row: row.weights[0].gradient_norm)


def _mean_loss(run: RunRecord) -> float | None:
    losses = finite_part(run.total_losses)
    return float(losses.mean()) if losses.size else None


CLAIMS: Mapping[str, Sequence[Claim]] = {
    "smoothness": (*_santurkar("bn", "none", "BN:"),),
    "others": tuple(
        claim for norm in ("ln", "in", "gn", "frn") for claim in _santurkar(norm, "none", f"{norm.upper()}:")[:4]
    ),
    "signals": (
        Claim("Larger groups make images more alike: LN over GN", "ln", "gn", _SIMILARITY, False, False),
        Claim("Larger groups make images more alike: GN over IN", "gn", "in", _SIMILARITY, False, False),
        Claim("Smaller groups, larger first gradient: IN over GN", "in", "gn", _FIRST_GRADIENT, False),
        Claim("Smaller groups, larger first gradient: GN over LN", "gn", "ln", _FIRST_GRADIENT, False),
        Claim("LN converges more slowly than GN (training loss)", "ln", "gn", _mean_loss, False),
    ),
    "growth": (
        *(
            Claim(f"{norm.upper()} prevents that activations grow", norm, "none", _GROWTH)
            for norm in ("bn", "ln", "in", "gn")
        ),
        Claim("Weight normalization does not: more than BN", "none+wn", "bn", _GROWTH, False),
        Claim("Scaled weight standardization does not: more than BN", "none+sws", "bn", _GROWTH, False),
        Claim("Larger groups make images more alike: LN over GN", "ln", "gn", _SIMILARITY, False, False),
        Claim("Larger groups make images more alike: GN over IN", "gn", "in", _SIMILARITY, False, False),
        Claim("Smaller groups, larger first gradient: IN over GN", "in", "gn", _FIRST_GRADIENT, False),
        Claim("Smaller groups, larger first gradient: GN over LN", "gn", "ln", _FIRST_GRADIENT, False),
    ),
}
"""By the name of a table; docs/results/why.md says which paper each is of."""


def claims(report: Report, wanted: Sequence[Claim]) -> str:
    """Return the table of the claims over every setting of a report; what was not measured has no row."""
    found = [
        (claim, panel.title, *sides)
        for panel in panels(report.sections)
        for claim in wanted
        if (sides := _sides(claim, panel.groups)) is not None
    ]
    return _written([(claim.text, where, claim, first, second) for claim, where, first, second in found])


def band_claims(report: Report) -> str:
    """Return the claim that BN narrows the band of training losses over learning rates, in every network."""
    by_network: dict[str, list[Group]] = {}
    for section in report.sections:
        for group in section.groups:
            by_network.setdefault(group.runs[0].config.model_name, []).append(group)
    claim = Claim("BN: the band over learning rates is narrower", "bn", "none", lambda run: None)
    rows = []
    for network, groups in by_network.items():
        first, second = ([g for g in groups if g.norm == norm] for norm in (claim.first, claim.second))
        rows.append((claim.text, network, claim, _widths(first), _widths(second)))
    return _written(rows)


Sides = Mapping[int, float]


def _sides(claim: Claim, groups: Sequence[Group]) -> tuple[Sides, Sides] | None:
    by_norm = {group.norm: group for group in groups}
    if not {claim.first, claim.second} <= by_norm.keys():
        return None
    first = _by_seed(by_norm[claim.first].completed, claim.of, claim)
    second = _by_seed(by_norm[claim.second].completed, claim.of_second or claim.of, claim)
    return (first, second) if first.keys() & second.keys() else None


def _by_seed(runs: Sequence[RunRecord], of: Callable[[RunRecord], float | None], claim: Claim) -> Sides:
    values = {run.config.seed: of(run) for run in runs}
    return {s: v for s, v in values.items() if v is not None and np.isfinite(v) and (v > 0 or not claim.is_ratio)}


def _widths(groups: Sequence[Group]) -> Sides:
    """Return by seed the greatest less the least smoothed training loss over the learning rates, mean over steps."""
    curves: dict[int, list[np.ndarray]] = {}  # type: ignore[type-arg]
    for group in groups:
        for run in group.completed:
            losses = finite_part(run.total_losses)
            curves.setdefault(run.config.seed, []).append(smooth(losses, smoothing_window(losses.size)))
    several = {seed: np.stack(found) for seed, found in curves.items() if len(found) > 1}
    return {seed: float((found.max(axis=0) - found.min(axis=0)).mean()) for seed, found in several.items()}


def _written(rows: Sequence[tuple[str, str, Claim, Sides, Sides]]) -> str:
    tests = [_test(claim, first, second) for _, _, claim, first, second in rows]
    adjusted = iter(holm([test.p for test in tests if test.p is not None]))
    kinds = sorted({"ratio" if claim.is_ratio else "difference" for _, _, claim, _, _ in rows}, reverse=True)
    lines = [["claim", "where", "with", "against", f"{' or '.join(kinds)}, 95 % interval", "Holm p", "verdict"]]
    for (text, where, claim, first, second), test in zip(rows, tests, strict=True):
        p = None if test.p is None else next(adjusted)
        sides = [_mean(claim, values) for values in (first, second)]
        lines.append([text, where, *sides, _interval(claim, test), format_p(p), _verdict(claim, test, p)])
    aligns: list[Align] = ["left", "left", "right", "right", "right", "right", "left"]
    if not any(where for _, where, *_ in rows):  # there is but one setting
        lines, aligns = [[line[0], *line[2:]] for line in lines], [aligns[0], *aligns[2:]]
    return markdown_grid(lines, aligns)


def _test(claim: Claim, first: Sides, second: Sides) -> TTest:
    logs = [{s: float(np.log(v)) if claim.is_ratio else v for s, v in side.items()} for side in (first, second)]
    test = t_test(*logs)
    assert test is not None, "the sides share a seed"
    return test


def _mean(claim: Claim, values: Sides) -> str:
    found = np.array(list(values.values()))
    return f"{np.exp(np.log(found).mean()) if claim.is_ratio else found.mean():.3g}"


def _interval(claim: Claim, test: TTest) -> str:
    estimate = test.estimate
    numbers = [estimate.mean, estimate.low, estimate.high]
    shown = [
        f"{np.exp(n) if claim.is_ratio else n:{'.3g' if claim.is_ratio else '+.3f'}}" for n in numbers if n is not None
    ]
    mark = "x " if claim.is_ratio else ""
    return f"{mark}{shown[0]}" + (f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else "")


def _verdict(claim: Claim, test: TTest, p: float | None) -> str:
    if p is None or p >= ALPHA or test.estimate.n < MIN_SEEDS:
        return "not resolved"
    return "confirmed" if (test.estimate.mean < 0) == claim.is_lower else "contradicted"
