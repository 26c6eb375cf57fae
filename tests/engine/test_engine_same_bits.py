"""What breaks the promise of the same bits, and what is said then."""

import warnings
from dataclasses import replace

import pytest
import torch

from normbench.engine.same_bits import nondeterministic_operations, promise
from normbench.engine.step.state import StepSettings

# As torch words them, in aten/src/ATen/Context.cpp.
WARNING = (
    "{} does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True, warn_only=True)'."
)
SETTINGS = StepSettings(
    batch_size=4, num_images=8, num_epochs=1, learning_rates=None, augment=False,
    device="cuda", precision="fp32", engine="graph",
)  # fmt: skip


def test_operations_that_torch_warns_of_are_named_and_other_warnings_are_shown() -> None:
    names = ["cumsum_cuda_kernel", "max_pool2d_with_indices_backward_cuda", "cumsum_cuda_kernel", "put_"]
    texts = [WARNING.format(name) for name in names]
    texts += ["Flash Attention defaults to a non-deterministic algorithm. ...", "something else"]
    texts += [
        "Attempting to run cuBLAS, but there was no current CUDA context! Attempting to set the primary context..."
    ]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with nondeterministic_operations() as found:
            for text in texts:
                warnings.warn(text, stacklevel=1)
        warnings.warn(texts[0], stacklevel=1)  # the step again, after it was prepared
    assert [str(warning.message) for warning in shown] == ["something else"]
    assert found == ["cumsum_cuda_kernel", "put_"]


def test_torch_still_words_the_warning_so() -> None:
    """By the check that torch's own operations call, and that runs on a CPU too."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with nondeterministic_operations() as found:
            torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == ["put_"]


@pytest.mark.parametrize(
    ("changes", "nondeterministic", "expected"),
    [
        ({}, [], "yes"),
        ({"device": "cpu", "engine": "eager"}, [], "yes"),
        ({}, ["put_"], "no: no deterministic implementation of put_"),
        ({"engine": "compile"}, [], "no: not tried with compiled models"),
        ({"device": "mps", "engine": "eager"}, [], "no: not tried on such GPUs"),
    ],
)
def test_what_a_run_promises(changes, nondeterministic: list[str], expected: str) -> None:
    assert promise(replace(SETTINGS, **changes), nondeterministic, reproducible=True) == expected
    assert promise(replace(SETTINGS, **changes), [], reproducible=False) == "no: train.reproducible is false"


def test_amd_gpus_make_no_promise(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.0")  # a faked device
    assert promise(SETTINGS, [], reproducible=True).startswith("no: ")
