"""Lookups in a registry: what is found, what is imported, and what a wrong name is told."""

from __future__ import annotations

import subprocess
import sys
from types import MappingProxyType

import pytest

from normbench.data import DATASETS
from normbench.errors import UnknownNameError
from normbench.models import MODELS
from normbench.norms import NORMS, SEQUENCE_NORMS, WEIGHTS
from normbench.registry import check_option_names, find, load

FRUIT = MappingProxyType({"apple": 1, "pear": 2})


def test_an_entry_is_found_and_a_wrong_name_gets_the_nearest() -> None:
    assert find("fruit", "pear", FRUIT) == 2
    with pytest.raises(UnknownNameError, match=r"^unknown fruit 'aple'; did you mean 'apple'\? Allowed: apple, pear$"):
        find("fruit", "aple", FRUIT)


def test_a_wrong_option_is_named_with_its_owner() -> None:
    check_option_names("fruit 'pear'", ["apple"], FRUIT)
    with pytest.raises(UnknownNameError, match=r"^unknown option of fruit 'pear': 'aple'; did you mean 'apple'"):
        check_option_names("fruit 'pear'", ["aple"], FRUIT)
    with pytest.raises(UnknownNameError, match=r"Allowed: \(it has none\)"):
        check_option_names("fruit 'pear'", ["aple"], {})


def test_a_target_is_imported() -> None:
    assert load("normbench.registry:load") is load


def test_every_target_of_the_registries_is_there() -> None:
    entries = [*NORMS.values(), *SEQUENCE_NORMS.values(), *WEIGHTS.values(), *MODELS.values()]
    for target in [*(entry.build for entry in entries), *(dataset.load for dataset in DATASETS.values())]:
        assert callable(load(target))


@pytest.mark.parametrize("registry", [NORMS, SEQUENCE_NORMS, WEIGHTS, MODELS, DATASETS])
def test_registries_are_read_only(registry: object) -> None:
    with pytest.raises(TypeError):
        registry["mine"] = None  # type: ignore[index]


def test_reading_the_registries_imports_no_torch() -> None:
    code = "import sys, normbench.norms, normbench.models, normbench.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
