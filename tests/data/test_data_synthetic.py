"""The drawn images: the same every time, balanced, and neither trivial nor hopeless."""

import numpy as np
import pytest

from normbench.data import load_dataset
from normbench.errors import ConfigError


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", num_train=1_200, num_test=300)


def test_shapes_labels_and_what_it_calls_itself(dataset):
    assert dataset.x_train.shape == (1_200, 32, 32, 3)
    assert dataset.x_train.dtype == np.uint8
    assert dataset.y_train.dtype == np.int64
    assert np.bincount(dataset.y_train).tolist() == [120] * 10
    assert np.bincount(dataset.y_test).tolist() == [30] * 10
    assert len(set(dataset.class_names)) == 10
    assert dataset.is_synthetic
    assert "seed 0" in dataset.source


def test_the_seed_decides_the_images(dataset):
    again = load_dataset("synthetic", num_train=1_200, num_test=300, seed=0)
    np.testing.assert_array_equal(again.x_train, dataset.x_train)
    np.testing.assert_array_equal(again.x_test, dataset.x_test)
    other = load_dataset("synthetic", num_train=20, num_test=20, seed=1)
    assert not np.array_equal(other.x_train, dataset.x_train[:20])


def test_a_small_set_is_the_beginning_of_a_large_one(dataset):
    small = load_dataset("synthetic", num_train=523, num_test=7)
    np.testing.assert_array_equal(small.x_train, dataset.x_train[:523])
    np.testing.assert_array_equal(small.x_test, dataset.x_test[:7])


def test_no_image_is_drawn_twice(dataset):
    images = [image.tobytes() for image in (*dataset.x_train, *dataset.x_test)]
    assert len(set(images)) == len(images)


def test_contrast_and_brightness_vary_from_image_to_image(dataset):
    contrast = dataset.x_train.reshape(1_200, -1).std(axis=1)
    low, high = np.quantile(contrast, [0.05, 0.95])
    assert high > 4 * low
    assert dataset.x_train.reshape(1_200, -1).mean(axis=1).std() > 15


@pytest.mark.parametrize("describe", [lambda x: x.mean(axis=(1, 2)), lambda x: x[:, ::4, ::4].reshape(len(x), -1)])
def test_mean_colour_or_raw_pixels_do_not_give_the_class_away(describe, dataset):
    """A linear classifier (ridge regression to one-hot labels) stays far below what a convolutional net reaches."""
    train, test = (np.c_[describe(x) / 255.0, np.ones(len(x))] for x in (dataset.x_train, dataset.x_test))
    penalty = 1e-2 * len(train) * np.eye(train.shape[1])
    weights = np.linalg.solve(train.T @ train + penalty, train.T @ np.eye(10)[dataset.y_train])
    assert ((test @ weights).argmax(axis=1) == dataset.y_test).mean() < 0.35


@pytest.mark.parametrize(
    "options", [{"num_train": 0}, {"num_test": -1}, {"num_train": 1.5}, {"seed": -1}, {"seed": "0"}]
)
def test_wrong_option_values(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        load_dataset("synthetic", **options)
