"""The loss terms against their formulas, written out in loops."""

import numpy as np
import pytest
import torch

from normbench.style.losses import content_loss, gram_matrix, style_loss, total_variation


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gram_matrix_by_hand() -> None:
    features = maps(2, 3, 4, 5)
    for sample, gram in zip(features.numpy(), gram_matrix(features), strict=True):
        for i in range(3):
            for j in range(3):
                assert gram[i, j].item() == pytest.approx((sample[i] * sample[j]).sum() / (3 * 4 * 5), rel=1e-4)


def test_gram_matrix_forgets_where_things_are() -> None:
    features = maps(1, 3, 4, 5)
    moved = features.flatten(2)[:, :, torch.randperm(20)].view(1, 3, 4, 5)
    torch.testing.assert_close(gram_matrix(moved), gram_matrix(features))


def test_content_loss_is_the_relative_squared_distance_of_each_sample() -> None:
    features, target = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    each = [((f - t) ** 2).sum() / (t**2).sum() for f, t in zip(features.numpy(), target.numpy(), strict=True)]
    assert content_loss(features, target).item() == pytest.approx(np.mean(each), rel=1e-5)
    assert content_loss(target, target) == 0
    assert content_loss(torch.zeros_like(target), target).item() == pytest.approx(1)
    torch.testing.assert_close(content_loss(50 * features, 50 * target), content_loss(features, target))


def test_style_loss_is_the_mean_over_layers_of_relative_gram_distances() -> None:
    features = [maps(2, 3, 4, 5), maps(2, 6, 2, 3)]
    grams = [gram_matrix(maps(1, 3, 7, 7, seed=2)), gram_matrix(maps(1, 6, 3, 3, seed=3))]
    each = []
    for layer, gram in zip(features, grams, strict=True):
        for sample in gram_matrix(layer):
            each.append((((sample - gram[0]) ** 2).sum() / (gram**2).sum()).item())
    assert style_loss(features, grams).item() == pytest.approx(np.mean(each), rel=1e-5)
    assert style_loss([maps(1, 3, 7, 7, seed=2)], grams[:1]).item() == pytest.approx(0, abs=1e-12)


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0, 3.0], [0.0, 1.0, 0.0]]]]).expand(2, 3, 2, 3)
    down = (0 + 0 + 9) / 3
    right = (1 + 4 + 1 + 1) / 4
    assert total_variation(image).item() == pytest.approx(down + right)
    assert total_variation(torch.ones(1, 3, 4, 4)) == 0


def test_low_precision_features_are_compared_in_float32() -> None:
    features = 300 * maps(1, 4, 8, 8).half()
    assert gram_matrix(features).dtype == torch.float32
    assert gram_matrix(features).isfinite().all()
    assert content_loss(features, features + 1).isfinite()
