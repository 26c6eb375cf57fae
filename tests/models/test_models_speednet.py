"""SpeedNet and its first layer: what whitening does to images, how convolutions start, what is trained."""

import numpy as np
import pytest
import torch

from normbench.layers.whitening import EPS, Whitening
from normbench.models import build_model
from normbench.norms import make_norm


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Noise that is smooth from pixel to pixel and alike in all colors, as photographs are: ``(300, 3, 8, 8)``."""
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 1, 9, 9, generator=source) + 0.2 * torch.randn(300, 3, 9, 9, generator=source)
    return (noise[:, :, 1:, 1:] + noise[:, :, :-1, :-1]) / 2


def test_whitened_patches_are_uncorrelated_and_of_unit_size(images) -> None:
    layer = Whitening(3)
    layer.fit(images)
    y = layer(images).detach().numpy().astype(np.float64)
    assert y.shape == (300, 24, 7, 7)
    np.testing.assert_array_equal(y[:, 12:], -y[:, :12])
    rows = y[:, :12].transpose(0, 2, 3, 1).reshape(-1, 12)
    patches = np.stack([images[:, :, i : i + 7, j : j + 7] for i in (0, 1) for j in (0, 1)], axis=2)
    values = patches.transpose(0, 3, 4, 1, 2).reshape(-1, 12).astype(np.float64)
    variances = np.linalg.eigvalsh(values.T @ values / len(values))
    expected = variances / (variances + EPS * variances.mean())
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.diag(expected), atol=1e-4)


def test_filters_are_kept_and_not_trained(images) -> None:
    layer, other = Whitening(3), Whitening(3)
    layer.fit(images)
    other.fit(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(layer.weight, other.weight)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_convolutions_start_by_handing_channels_on() -> None:
    network = build_model("speednet", norm=make_norm("bn"))
    x = torch.randn(2, 24, 5, 5)
    torch.testing.assert_close(network.features[0](x)[:, :24], x)


def test_a_gradient_reaches_every_parameter_and_no_norm_loses_its_activation() -> None:
    for norm, num_gelus in (("bn", 6), ("frn", 0)):
        network = build_model("speednet", norm=make_norm(norm))
        network(torch.randn(4, 3, 32, 32)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
        assert sum(isinstance(module, torch.nn.GELU) for module in network.modules()) == num_gelus


@pytest.mark.parametrize("norm", ["bn", "gn", "ghost_bn", "dyt", "none"])
def test_a_gelu_follows_the_norm_whether_one_kernel_has_both_or_not(norm) -> None:
    x = 2 * torch.randn(4, 32, 5, 5, generator=torch.Generator().manual_seed(0))
    both, alone = make_norm(norm).norm_act(32, size=5, activation="gelu"), make_norm(norm).norm_only(32, size=5)
    torch.testing.assert_close(both(x), torch.nn.functional.gelu(alone(x)))
