"""Each measure of a trained network against NumPy, or against what must follow from how it is defined."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from normbench.config.schema import EvaluateConfig
from normbench.engine.batches import DeviceImages, normalize
from normbench.evaluation.average import WeightAverage
from normbench.evaluation.measure import Subject, evaluate_all
from normbench.evaluation.predictions import predict
from normbench.evaluation.statistics import depends_on_batch_or_mode, reestimated
from normbench.models import build_model
from normbench.norms import make_norm

NAMES = tuple("abcdefghij")


def draw(count: int, seed: int) -> DeviceImages:
    """Images whose brightness says something about their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    images = rng.integers(0, 128, (count, 32, 32, 3)) + 12 * labels[:, None, None, None]
    return DeviceImages(images.astype(np.uint8), labels, "cpu", channels_last=True)


class Net(nn.Module):
    """A convolution, a norm, ReLU, mean over pixels, a linear layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), norm, nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def trained(norm: nn.Module) -> nn.Module:
    """A net whose running averages come from some steps of training."""
    net = Net(norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    images = draw(120, 1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(normalize(images.images)), images.labels).backward()
        optimizer.step()
    return net.eval()


def subject(model: nn.Module, average: WeightAverage | None = None) -> Subject:
    return Subject(model, draw(1100, 2), draw(203, 3), NAMES, "test", "cpu", "fp32", average)


@pytest.fixture(scope="module")
def bn() -> nn.Module:
    return trained(nn.BatchNorm2d(8))


def test_predictions_and_what_follows_are_those_of_numpy(bn: nn.Module) -> None:
    images = draw(203, 3)
    found = predict(bn, images, "cpu", "fp32", batch_size=50)
    with torch.no_grad():
        logits = bn(normalize(images.images)).double().numpy()
    labels = images.labels.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    assert found.predicted.tolist() == predicted.tolist()
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-5)
    assert found.loss == pytest.approx(-np.log(probabilities[np.arange(203), labels]).mean(), rel=1e-5)
    confusion = np.zeros((10, 10), int)
    for actual, named in zip(labels, predicted, strict=True):
        confusion[actual, named] += 1
    assert found.confusion(10).tolist() == confusion.tolist()
    error = 0.0  # of calibration, image by image and bin by bin
    for low in np.arange(15) / 15:
        inside = (found.confidence > low) & (found.confidence <= low + 1 / 15)
        if inside.any():
            hits, mean_confidence = (predicted == labels)[inside].mean(), found.confidence[inside].mean()
            error += inside.mean() * abs(hits - mean_confidence)
    record = evaluate_all(subject(bn), EvaluateConfig(batch_sizes=(), reestimate_batches=0))
    assert record.calibration_error == pytest.approx(error, rel=1e-6)
    assert record.accuracy == pytest.approx((predicted == labels).mean())
    assert record.hit_bits.tolist() == (predicted == labels).astype(int).tolist()
    by_class = [(predicted == labels)[labels == name].mean() for name in range(10)]
    np.testing.assert_allclose(record.class_accuracies, by_class)


def test_statistics_of_the_batch_are_those_of_training_mode(bn: nn.Module) -> None:
    before = copy.deepcopy(bn.state_dict())
    record = evaluate_all(subject(bn), EvaluateConfig(batch_sizes=(1, 8, 512)))
    images = draw(203, 3)
    for size in (1, 8, 512):
        model, hits = copy.deepcopy(bn).train(), 0
        with torch.no_grad():
            for part, labels in zip(images.images.split(size), images.labels.split(size), strict=True):
                hits += int((model(normalize(part)).argmax(1) == labels).sum())
        assert record.with_statistics("batch", size, "last") == hits / 203
    assert record.with_statistics("running", None, "last") == record.accuracy
    assert record.with_statistics("running", None, "average") is None
    assert not bn.training
    for name, tensor in bn.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_reestimated_statistics_are_the_means_over_batches(bn: nn.Module) -> None:
    images = draw(1100, 2)
    found = reestimated(bn, images, 20, "cpu", "fp32")
    assert found is not None
    assert not found.training
    order = torch.randperm(1100, generator=torch.Generator().manual_seed(epoch_seed()))
    with torch.no_grad():  # two whole batches of 512; the last 76 images are left out
        outputs = [bn.conv(normalize(images.images[part])).double().numpy() for part in order[:1024].split(512)]
    means = np.mean([output.mean(axis=(0, 2, 3)) for output in outputs], axis=0)
    variances = np.mean([output.var(axis=(0, 2, 3), ddof=1) for output in outputs], axis=0)
    np.testing.assert_allclose(found.norm.running_mean, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.norm.running_var, variances, rtol=1e-4)


def epoch_seed() -> int:
    """The seed of the order of epoch 0 with seed 0."""
    import hashlib

    return int.from_bytes(hashlib.sha256(b"0/order/0").digest()[:8], "big") >> 1


def test_averaged_weights_are_the_mean_over_epochs_and_keep_the_last_buffers() -> None:
    model, average = Net(nn.BatchNorm2d(8)), WeightAverage()
    snapshots = []
    for epoch in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(epoch)))
        model.norm.running_mean.fill_(epoch)
        average.add(model)
        snapshots.append(copy.deepcopy(dict(model.named_parameters())))
    again = WeightAverage()
    again.load_state_dict(average.state_dict(), model)
    averaged = again.applied_to(model)
    for name, parameter in averaged.named_parameters():
        expected = np.mean([snapshot[name].detach().double().numpy() for snapshot in snapshots], axis=0)
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-4, atol=1e-6)
    assert averaged.norm.running_mean.unique().tolist() == [2.0]
    with pytest.raises(ValueError, match="another network"):
        again.load_state_dict(average.state_dict(), Net(nn.BatchNorm2d(8)).head)


def test_an_average_is_evaluated_with_its_own_statistics_and_with_the_last(bn: nn.Module) -> None:
    average = WeightAverage()
    for _ in range(2):
        average.add(bn)
    record = evaluate_all(subject(bn, average), EvaluateConfig(batch_sizes=()))
    assert record.num_averaged == 2
    # The mean of equal weights is these weights.
    assert record.with_statistics("running", None, "average") == record.accuracy
    assert record.with_statistics("re-estimated", None, "average") == record.with_statistics(
        "re-estimated", None, "last"
    )


@pytest.mark.parametrize(
    ("norm", "depends"),
    [("bn", True), ("bn_nostats", True), ("brn", True), ("ghost_bn", True), ("gn", False), ("ln", False),
     ("frozen_bn", False), ("none", False), ("evonorm_s0", False), ("evonorm_b0", True)],
)  # fmt: skip
def test_whether_mode_or_batch_matter_is_found_without_knowing_the_norm(norm: str, depends: bool) -> None:
    torch.manual_seed(0)
    model = build_model("norm_resnet_small", norm=make_norm(norm)).eval()
    assert depends_on_batch_or_mode(model, draw(20, 4), "cpu") is depends


def test_a_norm_without_statistics_of_a_batch_has_one_result(bn: nn.Module) -> None:
    model = trained(nn.GroupNorm(2, 8))
    record = evaluate_all(subject(model), EvaluateConfig())
    assert record.statistics == ()
    assert record.train_test_gap == record.train.accuracy - record.accuracy


def test_corruptions_are_tried_with_statistics_as_trained_and_of_the_batch(bn: nn.Module) -> None:
    few = replace(subject(bn), test_images=draw(20, 3))
    config = EvaluateConfig(batch_sizes=(), reestimate_batches=0, corruptions="generated", corruption_seed=4)
    corruptions = evaluate_all(few, config).corruptions
    assert corruptions is not None
    assert (corruptions.seed, len(corruptions.results)) == (4, 75)
    errors = [1 - result.accuracy for result in corruptions.results]
    assert corruptions.mean_error == pytest.approx(sum(errors) / 75)
    assert corruptions.mean_adapted_error is not None
    plain = evaluate_all(replace(few, model=trained(nn.GroupNorm(2, 8))), config).corruptions
    assert plain is not None
    assert plain.mean_adapted_error is None


@pytest.mark.parametrize("num_views", [2, 6])
def test_views_are_averaged_by_their_weights(bn: nn.Module, num_views: int) -> None:
    whole = subject(bn)
    config = EvaluateConfig(batch_sizes=(), reestimate_batches=0, views=num_views)
    found = evaluate_all(whole, config).views
    assert found is not None
    x = normalize(whole.test_images.images).numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    weights = {(1, 1): 1.0} if num_views == 2 else {(1, 1): 0.5, (0, 0): 0.25, (2, 2): 0.25}
    logits = np.zeros((203, 10))
    with torch.no_grad():
        for (top, left), weight in weights.items():
            window = padded[:, :, top : top + 32, left : left + 32]
            for view in (window, window[..., ::-1]):
                logits += weight / 2 * bn(torch.from_numpy(view.copy())).double().numpy()
    labels = whole.test_images.labels.numpy()
    assert found.num_views == num_views
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.loss == pytest.approx(-np.log(shares[np.arange(203), labels]).mean(), rel=1e-5)
    assert not bn.training
