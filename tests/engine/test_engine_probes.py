"""Probes against closed forms (a quadratic loss, a linear network) and finite differences in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_net import TinyNet
from torch import Tensor, nn

from normbench import NormResNet, make_norm
from normbench.engine.probes.curvature import CurvatureProbe
from normbench.engine.probes.landscape import LandscapeProbe
from normbench.engine.probes.moment import Moment
from normbench.engine.probes.signals import SignalsProbe, mean_cosine, stable_rank
from normbench.engine.step.objective import CrossEntropy, Outcome
from normbench.layers.sites import norm_sites

STEP_SIZES = (0.05, 0.1, 0.4)
RNG = np.random.default_rng(5)


class Point(nn.Module):
    """Two parameters that the network returns as one vector."""

    def __init__(self, at: np.ndarray) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.from_numpy(at[:3].copy()))
        self.second = nn.Parameter(torch.from_numpy(at[3:].copy()).view(1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first, self.second.flatten()])


class Quadratic(CrossEntropy):
    """``w'Aw / 2 + b'w``."""

    def __init__(self, matrix: np.ndarray, linear: np.ndarray) -> None:
        super().__init__()
        self.matrix, self.linear = torch.from_numpy(matrix), torch.from_numpy(linear)

    def outcome(self, outputs: Tensor, labels: Tensor) -> Outcome:
        return Outcome((outputs @ self.matrix @ outputs / 2 + self.linear @ outputs,))


def quadratic(eigenvalues: list[float]) -> tuple[Moment, np.ndarray, np.ndarray, np.ndarray]:
    """Return a moment at w, with A (of these eigenvalues), b and w."""
    basis = np.linalg.qr(RNG.normal(size=(len(eigenvalues),) * 2))[0]
    matrix = basis @ np.diag(eigenvalues) @ basis.T
    linear, at = RNG.normal(size=(2, len(eigenvalues)))
    model = Point(at)
    return Moment(7, 0.1, model, Quadratic(matrix, linear), torch.zeros(1), torch.zeros(1)), matrix, linear, at


def test_landscape_of_a_quadratic_loss() -> None:
    moment, matrix, linear, at = quadratic([4.0, 2.0, 1.0, 0.5, -1.0])
    row = LandscapeProbe(1, STEP_SIZES).measure(moment)

    def loss(w: np.ndarray) -> float:
        return w @ matrix @ w / 2 + linear @ w

    gradient = matrix @ at + linear
    assert (row.step, row.step_sizes) == (7, STEP_SIZES)
    assert row.loss == pytest.approx(loss(at), rel=1e-12)
    assert row.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert row.weight_norm == pytest.approx(np.linalg.norm(at), rel=1e-12)
    assert row.losses == pytest.approx([loss(at - e * gradient) for e in STEP_SIZES], rel=1e-12)
    moved = np.linalg.norm(matrix @ gradient)
    assert row.gradient_distances == pytest.approx([e * moved for e in STEP_SIZES], rel=1e-10)
    there = [gradient - e * matrix @ gradient for e in STEP_SIZES]
    cosines = [gradient @ g / np.linalg.norm(gradient) / np.linalg.norm(g) for g in there]
    assert row.cosines == pytest.approx(cosines, rel=1e-12)
    assert row.smoothness == pytest.approx(moved / np.linalg.norm(gradient), rel=1e-10)
    assert row.loss_range == (min(row.loss, *row.losses), max(row.loss, *row.losses))


@pytest.mark.parametrize("eigenvalues", [[4.0, 2.0, 1.0, 0.5, -1.0], [-6.0, 2.0, 1.0, 0.0, 3.0]])
def test_curvature_of_a_quadratic_loss_is_the_eigenvalue_of_the_largest_magnitude(eigenvalues: list[float]) -> None:
    moment, *_ = quadratic(eigenvalues)
    row = CurvatureProbe(1, 200, 1e-6).measure(moment)
    assert row.is_converged
    assert row.residual <= 1e-6
    assert row.iterations < 200
    assert row.eigenvalue == pytest.approx(max(eigenvalues, key=abs), rel=1e-6)
    cut = CurvatureProbe(1, 2, 1e-9).measure(moment)
    assert (cut.iterations, cut.is_converged) == (2, False)
    assert cut.residual > 1e-9


def real_moment(norm: str, channels: tuple[int, ...] = (8, 8, 8, 8)) -> Moment:
    """Return a small network in float64, which has no kernels, and eight images."""
    torch.manual_seed(0)
    model = NormResNet(norm=make_norm(norm), channels=channels, image_size=16).double().train()
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    return Moment(0, 0.1, model, Float64CrossEntropy(), images, torch.arange(8))


class Float64CrossEntropy(CrossEntropy):
    def outcome(self, outputs: Tensor, labels: Tensor) -> Outcome:
        return Outcome((nn.functional.cross_entropy(outputs, labels),))


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflat(vector: Tensor, like: Any) -> list[Tensor]:
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_probes_of_a_network_against_finite_differences(norm: str) -> None:
    moment = real_moment(norm)
    weights = [p.detach() for p in moment.parameters.values()]
    start = flat(weights)

    def loss(at: Tensor) -> float:
        with torch.no_grad():
            return float(moment.loss(unflat(at, weights)))

    def slope(at: Tensor, direction: Tensor, h: float) -> float:
        return (loss(at + h * direction) - loss(at - h * direction)) / (2 * h)

    row = LandscapeProbe(1, STEP_SIZES).measure(moment)
    gradient = flat(moment.value_and_gradient(weights)[1])
    unit = gradient / gradient.norm()
    assert row.gradient_norm == pytest.approx(slope(start, unit, 1e-5), rel=1e-6)
    # Along the gradient g, the derivative of the loss at w - e g is -(gradient there)' g.
    for size, cosine, distance, there in zip(
        row.step_sizes, row.cosines, row.gradient_distances, row.losses, strict=True
    ):
        at = start - size * gradient
        assert there == pytest.approx(loss(at), rel=1e-12)
        along = slope(at, unit, 1e-6)
        # |g'|^2 follows from distance and cosine: d^2 = |g'|^2 + |g|^2 - 2 |g'| |g| cos
        length = along / cosine
        assert distance**2 == pytest.approx(
            length**2 + row.gradient_norm**2 - 2 * length * row.gradient_norm * cosine, rel=1e-4
        )


def test_curvature_of_a_network_against_the_whole_hessian_by_finite_differences() -> None:
    moment = real_moment("bn", channels=(2, 2, 2, 2))
    weights = [p.detach() for p in moment.parameters.values()]
    start = flat(weights)

    def gradient_at(at: Tensor) -> Tensor:
        return flat(moment.value_and_gradient(unflat(at, weights))[1])

    steps = 1e-5 * torch.eye(len(start), dtype=torch.float64)
    hessian = torch.stack([(gradient_at(start + step) - gradient_at(start - step)) / 2e-5 for step in steps])
    row = CurvatureProbe(1, 500, 1e-4).measure(moment)
    assert row.is_converged
    eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    assert row.eigenvalue == pytest.approx(float(eigenvalues[eigenvalues.abs().argmax()]), rel=1e-4)


def test_signals_of_a_network_against_numpy_and_finite_differences() -> None:
    moment = real_moment("bn")
    sites = norm_sites(moment.model)
    assert list(sites) == ["features.1", "features.3", "features.5", "features.7"]
    with torch.no_grad():
        sites["features.1"][0].running_mean.fill_(0.25)
        sites["features.1"][0].running_var.fill_(2.0)
        sites["features.3"][0].weight[:2] = 0.0  # two channels of one value: the shift
        sites["features.3"][0].bias[:2] = torch.tensor([-1.0, 0.5])
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    probed = SignalsProbe(1, samples=5)
    model = moment.model
    with torch.no_grad():
        x = moment.images
        running = [(m, m.running_mean.clone(), m.running_var.clone()) for m in model.modules() if hasattr(m, "eps")]
        for name, layer in model.features.named_children():
            before = x.numpy().copy()
            x = layer(x)
            seen[f"features.{name}"] = (before, x.numpy().copy())
        for layer, mean, var in running:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
    row = probed.measure(moment)
    for found in row.norms:
        before, after = seen[found.name]
        for side, values in ((found.before, before), (found.after, after)):
            assert side.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
            assert side.std == pytest.approx(values.std(), rel=1e-5)
            assert side.zero_share == pytest.approx((values == 0).mean(), abs=1e-7)
        channels = after.transpose(1, 0, 2, 3).reshape(8, -1)
        assert found.after.dead_share == pytest.approx((np.ptp(channels, axis=1) == 0).mean())
        rows = after[:5].reshape(5, -1)
        singular = np.linalg.svd(rows, compute_uv=False)
        assert found.stable_rank == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert found.similarity == pytest.approx((unit @ unit.T)[np.triu_indices(5, 1)].mean(), rel=1e-5)
    assert row.norms[1].after.dead_share == 0.25
    values = seen["features.1"][0].transpose(1, 0, 2, 3).reshape(8, -1)
    first = row.norms[0]
    assert first.mean_gap == pytest.approx(np.abs((values.mean(1) - 0.25) / np.sqrt(2)).mean(), rel=1e-5)
    assert first.variance_gap == pytest.approx(np.abs(np.log(values.var(1, ddof=1) / 2)).mean(), rel=1e-5)
    assert [w.name for w in row.weights] == [*(f"features.{i}.weight" for i in (0, 2, 4, 6)), "classifier.weight"]
    parameters = dict(moment.model.named_parameters())
    for weight in row.weights:
        values = parameters[weight.name].detach()
        assert weight.weight_norm == pytest.approx(float(values.norm()), rel=1e-6)
        assert weight.effective_learning_rate == pytest.approx(0.1 / float(values.norm()) ** 2, rel=1e-6)
    names = list(moment.parameters)
    at = [p.detach() for p in moment.parameters.values()]
    gradient = moment.value_and_gradient(at)[1]
    for weight in (row.weights[0], row.weights[-1]):
        place = names.index(weight.name)
        unit = gradient[place] / gradient[place].norm()

        def shifted(h: float, place: int = place, unit: Tensor = unit) -> float:
            return float(moment.loss([p + h * unit if i == place else p for i, p in enumerate(at)]))

        assert weight.gradient_norm == pytest.approx((shifted(1e-7) - shifted(-1e-7)) / 2e-7, rel=1e-5)
    assert row.gradient_ratio == pytest.approx(row.weights[0].gradient_norm / row.weights[-1].gradient_norm)


def test_stable_rank_and_cosine_of_matrices_with_known_ones() -> None:
    same = torch.ones(6, 4, dtype=torch.float64)
    assert (stable_rank(same @ same.T), mean_cosine(same @ same.T)) == pytest.approx((1, 1))
    apart = torch.eye(6, dtype=torch.float64) * 3
    assert (stable_rank(apart @ apart.T), mean_cosine(apart @ apart.T)) == pytest.approx((6, 0))
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert np.isnan(stable_rank(nothing))
    assert mean_cosine(nothing) == 0
    assert np.isnan(mean_cosine(torch.ones(1, 1)))


def test_every_place_for_a_norm_is_found_whatever_stands_there() -> None:
    for norm in ("none", "bn", "frn", "gn+ws", "evonorm_s0"):
        assert len(norm_sites(NormResNet(norm=make_norm(norm)))) == 4, norm
    assert norm_sites(TinyNet()) == {}, "its norm is its own, and no factory's"
