"""The numbers of ``normbench inspect`` against NumPy and by counting."""

import numpy as np
import pytest
import torch

from normbench.errors import ConfigError
from normbench.inspection.agreement import compare_norms
from normbench.inspection.measure import inspect_norm, statistics, uniform_input
from normbench.norms import NORMS, make_norm

TUTORIAL = (4, 4, 32, 32)
INPUT_BYTES = 4 * 4 * 32 * 32 * 4


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_can_be_inspected(norm: str) -> None:
    inspection = inspect_norm(make_norm(norm), TUTORIAL)
    assert len(inspection.output) == max(1, len(NORMS[norm].axis_sets))
    assert (inspection.evaluation is not None) == NORMS[norm].train_eval_differ


@pytest.mark.parametrize(
    ("sizes", "numpy_axes"),
    [((4, 1, 6, 5), (0, 2, 3)), ((1, 8, 6, 5), (1, 2, 3)), ((1, 1, 6, 5), (2, 3)), ((1, 8, 1, 1), (1,))],
)
def test_statistics_agree_with_numpy(sizes: tuple[int, int, int, int], numpy_axes: tuple[int, ...]) -> None:
    x = torch.randn(4, 8, 6, 5, dtype=torch.float64)
    measured = statistics(x, "", sizes)
    for moment, expected in (
        (measured.mean, x.numpy().mean(numpy_axes)),
        (measured.variance, x.numpy().var(numpy_axes)),
        (measured.unbiased_variance, x.numpy().var(numpy_axes, ddof=1)),
        (measured.mean_square, (x.numpy() ** 2).mean(numpy_axes)),
    ):
        assert moment is not None
        assert (moment.low, moment.high) == pytest.approx((expected.min(), expected.max()), rel=1e-12)


def test_statistics_of_groups_agree_with_numpy() -> None:
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    variances = x.numpy().reshape(2, 3, 2, 3, 3).var((2, 3, 4))
    measured = statistics(x, "C/3, H, W", (1, 2, 3, 3))
    assert measured.num_values == 18
    assert (measured.variance.low, measured.variance.high) == pytest.approx((variances.min(), variances.max()))


@pytest.mark.parametrize(
    ("norm", "options", "axes", "num_values"),
    [
        ("bn", {}, "N, H, W", 4096),
        ("ln", {}, "C, H, W", 4096),
        ("in", {}, "H, W", 1024),
        ("gn", {"groups": 2}, "C/2, H, W", 2048),
        ("gn", {"group_size": 1}, "C/4, H, W", 1024),
        ("ghost_bn", {"norm_batch_size": 2}, "N/2, H, W", 2048),
        ("ln2d", {}, "C", 4),
        ("dyt", {}, "all values", 16384),
    ],
)
def test_what_a_norm_averages_over(norm: str, options: dict[str, int], axes: str, num_values: int) -> None:
    moments = inspect_norm(make_norm(norm, **options), TUTORIAL).output[0]
    assert (moments.axes, moments.num_values) == (axes, num_values)
    if norm == "dyt":
        return
    assert abs(moments.mean.low) < 1e-5
    assert abs(moments.mean.high) < 1e-5
    if num_values > 4:
        # var / (var + eps) with the variance of a uniform number, 1/12, and eps 1e-5
        assert moments.variance.low == pytest.approx(1 / (1 + 12e-5), rel=1e-4)
        assert moments.unbiased_variance is not None
        assert moments.unbiased_variance.low / moments.variance.low == pytest.approx(
            num_values / (num_values - 1), rel=1e-9
        )


def test_bn_evaluation_uses_running_statistics_after_one_batch() -> None:
    x = uniform_input(TUTORIAL, 0).numpy().astype(np.float64)
    mean, unbiased = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
    running_mean, running_var = 0.1 * mean, 0.9 + 0.1 * unbiased
    output = (x - running_mean[:, None, None]) / np.sqrt(running_var + 1e-5)[:, None, None]
    evaluation = inspect_norm(make_norm("bn"), TUTORIAL).evaluation
    assert evaluation is not None
    assert evaluation.state["running_var"].low == pytest.approx(running_var.min(), rel=1e-5)
    assert evaluation.state["running_mean"].high == pytest.approx(running_mean.max(), rel=1e-5)
    assert evaluation.output.mean.low == pytest.approx(output.mean((0, 2, 3)).min(), rel=1e-5)
    assert evaluation.output.variance.high == pytest.approx(output.var((0, 2, 3)).max(), rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "extra_bytes"),
    [("none", -INPUT_BYTES), ("bn", 2 * 4 * 4), ("ln", 2 * 4 * 4), ("in", 2 * 16 * 4), ("frozen_bn", None)],
)
def test_bytes_kept_for_backward(norm: str, extra_bytes: int | None) -> None:
    """torch's fused norms keep their input and a mean and an inverse deviation per set; an identity keeps nothing."""
    inspection = inspect_norm(make_norm(norm), TUTORIAL)
    assert inspection.input_bytes == INPUT_BYTES
    if extra_bytes is None:  # y = x * constant keeps no tensor of the input's size
        assert inspection.kept_bytes < 100
    else:
        assert inspection.kept_bytes == INPUT_BYTES + extra_bytes


def test_custom_bn_is_bn_and_in_is_not() -> None:
    agreement = compare_norms(make_norm("custom_bn"), make_norm("bn"), TUTORIAL)
    assert agreement.agrees
    assert not agreement.only_left
    assert not agreement.only_right
    assert {"output, training", "output, evaluation", "input gradient", "running_mean", "running_var"} <= {
        tensor.quantity for tensor in agreement.compared
    }
    other = compare_norms(make_norm("in"), make_norm("bn"), TUTORIAL)
    assert not other.agrees
    assert "running_var" in other.only_right


def test_a_shape_that_cannot_be_normalized_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"bn on shape \(1, 4, 1, 1\)"):
        inspect_norm(make_norm("bn"), (1, 4, 1, 1))
    with pytest.raises(ConfigError, match="does not divide"):
        inspect_norm(make_norm("gn", groups=3), TUTORIAL)
