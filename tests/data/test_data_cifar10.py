"""Where CIFAR-10 is found, how images are held out of it, and the figures of the real one."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from normbench.data import DATASETS, load_dataset
from normbench.data.cifar import CHANNEL_MEAN, CHANNEL_STD, SHA256, import_cifar
from normbench.data.formats import Arrays, fingerprint, read_arrays, write_npz
from normbench.data.images import channel_mean_std
from normbench.data.locate import find_cifar, folder_to_write
from normbench.errors import ConfigError, DataError, UnknownNameError

REAL_DATA_DIR = os.environ.get("NORMBENCH_DATA_DIR", "")  # read before the fixtures empty the machine


def rows(images):
    return {image.tobytes() for image in images}


def test_search_order(npz, empty_machine, tmp_path, monkeypatch):
    cache, current = empty_machine / "cache" / "normbench", empty_machine / "data"
    variable, flag = tmp_path / "variable", tmp_path / "flag"
    for folder in (cache, current, variable, flag):
        folder.mkdir(parents=True)
        shutil.copy(npz, folder)
    monkeypatch.setenv("NORMBENCH_DATA_DIR", str(variable))
    assert find_cifar(flag) == flag / "cifar10.npz"
    assert find_cifar() == variable / "cifar10.npz"
    monkeypatch.setenv("NORMBENCH_DATA_DIR", "")
    assert find_cifar().resolve() == current / "cifar10.npz"
    shutil.rmtree(current)
    assert find_cifar() == cache / "cifar10.npz"


def test_a_named_folder_without_data_is_an_error_and_not_passed_over(npz, empty_machine, tmp_path, monkeypatch):
    (empty_machine / "data").mkdir()
    shutil.copy(npz, empty_machine / "data")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/absent (--data-dir: no such folder)")):
        load_dataset("cifar10", data_dir=tmp_path / "absent")
    monkeypatch.setenv("NORMBENCH_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} (NORMBENCH_DATA_DIR)")):
        load_dataset("cifar10")


def test_a_damaged_file_is_an_error_and_not_passed_over(npz, empty_machine):
    (empty_machine / "cache" / "normbench").mkdir(parents=True)
    shutil.copy(npz, empty_machine / "cache" / "normbench")
    (empty_machine / "data").mkdir()
    (empty_machine / "data" / "cifar10.npz").write_bytes(npz.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"data/cifar10\.npz: damaged"):
        load_dataset("cifar10")


def test_missing_data_names_the_ways_out_in_five_lines():
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10")
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert len(message.splitlines()) <= 5
    for way in ("data fetch", "--url", "data import PATH", "--data-dir", "NORMBENCH_DATA_DIR", "dataset: synthetic"):
        assert way in message


def test_data_set_holds_the_arrays_and_says_where_from(npz, small):
    dataset = load_dataset("cifar10", data_dir=npz.parent)
    np.testing.assert_array_equal(dataset.x_train, small.x_train)
    np.testing.assert_array_equal(dataset.y_test, small.y_test)
    assert dataset.source == f"{npz} (npz)"
    assert (dataset.eval_split, dataset.is_synthetic) == ("test", False)
    assert dataset.class_names[0] == "airplane"
    assert dataset.class_names[9] == "truck"


def test_val_split_is_balanced_fixed_and_leaves_the_test_images_alone(npz, small, tmp_path):
    dataset = load_dataset("cifar10", data_dir=npz.parent, eval_split="val")
    assert np.bincount(dataset.y_test).tolist() == [5] * 10
    assert np.bincount(dataset.y_train).tolist() == [45] * 10
    assert rows(dataset.x_train) | rows(dataset.x_test) == rows(small.x_train)
    assert len(rows(dataset.x_train) & rows(dataset.x_test)) == 0
    assert dataset.eval_split == "val"

    write_npz(Arrays(*(array[::-1] for array in small)), tmp_path / "turned")
    turned = load_dataset("cifar10", data_dir=tmp_path / "turned", eval_split="val")
    assert rows(turned.x_test) == rows(dataset.x_test), "the same images whatever order they are stored in"


def test_held_out_images_keep_their_labels(npz, small):
    label_of = {image.tobytes(): label for image, label in zip(small.x_train, small.y_train, strict=True)}
    dataset = load_dataset("cifar10", data_dir=npz.parent, eval_split="val", num_train=33, num_test=20)
    for images, labels in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_subsets_are_balanced_and_nested(npz):
    few = load_dataset("cifar10", data_dir=npz.parent, num_train=25, num_test=10)
    more = load_dataset("cifar10", data_dir=npz.parent, num_train=40)
    assert set(np.bincount(few.y_train)) == {2, 3}
    assert np.bincount(few.y_test).tolist() == [1] * 10
    np.testing.assert_array_equal(few.x_train, more.x_train[:25])
    assert len(more.x_test) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "num_train must be a whole number from 1 to 50,000, not 0"),
        ({"num_train": 50_001}, "from 1 to 50,000, not 50001"),
        ({"num_train": 45_001, "eval_split": "val"}, "from 1 to 45,000"),
        ({"num_test": 5_001, "eval_split": "val"}, "num_test must be a whole number from 1 to 5,000"),
        ({"num_test": True}, "not True"),
        ({"num_test": 10.0}, "not 10.0"),
        ({"eval_split": "vall"}, "did you mean 'val'.*Allowed: test, val"),
    ],
)
def test_wrong_option_values_are_refused_before_any_file_is_looked_for(options, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset("cifar10", **options)


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownNameError, match=r"did you mean 'cifar10'.*Allowed: cifar10, cifar100, synthetic"):
        load_dataset("cifar")
    with pytest.raises(UnknownNameError, match=r"did you mean 'num_train'.*Allowed: eval_split, num_train, num_test"):
        load_dataset("cifar10", num_trian=5)


@pytest.mark.parametrize("name", DATASETS)
def test_registry_options_are_those_of_the_loader(name):
    import inspect

    from normbench.registry import load

    parameters = inspect.signature(load(DATASETS[name].load)).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key != "data_dir"}
    assert dict(DATASETS[name].options) == defaults
    assert ("data_dir" in parameters) == DATASETS[name].needs_files
    with pytest.raises(TypeError):
        DATASETS["mine"] = DATASETS[name]


@pytest.mark.parametrize("form", ["npz", "batches", "archive"])
def test_import_takes_a_copy_by_its_path_or_its_folder(form, small, request, tmp_path):
    path = request.getfixturevalue(form)
    for source in (path, path.parent):
        target = import_cifar(source, tmp_path / "target")
        assert target == tmp_path / "target" / "cifar10.npz"
        np.testing.assert_array_equal(read_arrays(target).x_train, small.x_train)
        target.unlink()


def test_import_refuses_what_is_not_there_or_damaged(npz, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        import_cifar(tmp_path / "absent.npz", tmp_path / "target")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no CIFAR-10 in this folder"):
        import_cifar(tmp_path / "empty", tmp_path / "target")
    npz.write_bytes(npz.read_bytes()[:5000])
    with pytest.raises(DataError, match="damaged"):
        import_cifar(npz, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_new_data_goes_where_it_will_be_found(empty_machine, tmp_path, monkeypatch):
    assert folder_to_write() == empty_machine / "cache" / "normbench"
    monkeypatch.setenv("NORMBENCH_DATA_DIR", str(tmp_path / "variable"))
    assert folder_to_write() == tmp_path / "variable"
    assert folder_to_write(tmp_path / "flag") == tmp_path / "flag"


def test_channel_mean_std_is_numpys(small):
    mean, std = channel_mean_std(small.x_train)
    np.testing.assert_allclose(mean, small.x_train.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, small.x_train.std((0, 1, 2)) / 255, rtol=1e-12)


@pytest.mark.data
def test_real_cifar10_has_the_documented_figures():
    assert REAL_DATA_DIR, "tests marked `data` need NORMBENCH_DATA_DIR"
    arrays = read_arrays(find_cifar(Path(REAL_DATA_DIR)))
    assert np.bincount(arrays.y_train).tolist() == [5_000] * 10
    assert np.bincount(arrays.y_test).tolist() == [1_000] * 10
    mean, std = channel_mean_std(arrays.x_train)
    assert [round(value, 4) for value in mean] == list(CHANNEL_MEAN)
    assert [round(value, 4) for value in std] == list(CHANNEL_STD)
    assert fingerprint(arrays) == SHA256


@pytest.mark.data
def test_real_cifar10_val_split():
    assert REAL_DATA_DIR, "tests marked `data` need NORMBENCH_DATA_DIR"
    dataset = load_dataset("cifar10", data_dir=Path(REAL_DATA_DIR), eval_split="val")
    assert np.bincount(dataset.y_train).tolist() == [4_500] * 10
    assert np.bincount(dataset.y_test).tolist() == [500] * 10
    assert len(rows(dataset.x_train) & rows(dataset.x_test)) == 0
