"""What two runs of one comparison share, and what a seed changes."""

import pytest
import torch

from normbench.config.schema import RunConfig
from normbench.errors import ConfigError
from normbench.worker import classifiers
from normbench.worker.classifiers import CLASSIFICATION, build_run_model, load_images


def config(norm: str = "gn", seed: int = 0, model: str = "norm_resnet", **train: object) -> RunConfig:
    return RunConfig.model_validate(
        {"norm": norm, "model": model, "dataset": "synthetic", "train": train, "seed": seed, "device": "cpu"}
    )


@pytest.mark.parametrize("model", ["norm_resnet", "resnet9"])
@pytest.mark.parametrize("other", ["bn", "in", "none", "frn", "gn+ws"])
def test_norms_of_one_seed_start_from_the_same_filters(model: str, other: str) -> None:
    first = dict(build_run_model(config("gn", 5, model)).named_parameters())
    second = dict(build_run_model(config(other, 5, model)).named_parameters())
    shared = [name for name, p in first.items() if p.ndim >= 2 and name in second and second[name].shape == p.shape]
    assert len(shared) >= 5
    for name in shared:
        assert torch.equal(first[name], second[name]), name


def test_a_seed_gives_the_same_net_again_and_another_seed_another() -> None:
    torch.manual_seed(0)
    states = []
    for seed in (1, 1, 2):
        torch.rand(1)  # whatever was drawn before does not matter
        states.append(build_run_model(config(seed=seed)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    convolution = next(name for name, tensor in states[0].items() if tensor.ndim == 4)
    assert not torch.equal(states[0][convolution], states[2][convolution])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_run_model(config())
    assert torch.equal(torch.rand(3), expected)


def test_a_net_is_checked_without_memory() -> None:
    CLASSIFICATION.check_model(config("gn", batch_size=10**7))  # 123 GB of images, were they real


def test_a_norm_that_cannot_work_is_told_with_the_batch_size(monkeypatch) -> None:

    def refuse(*_: object, **__: object) -> torch.nn.Module:
        class Refuses(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise ValueError("Expected more than 1 value per channel")

        return Refuses()

    monkeypatch.setattr(classifiers, "build_model", refuse)
    with pytest.raises(ConfigError, match="bn does not work in norm_resnet at batch size 1: Expected more than 1"):
        CLASSIFICATION.check_model(config("bn", batch_size=1))


def test_images_stay_loaded_for_the_next_run() -> None:
    options = {"num_train": 20, "num_test": 10, "seed": 0}
    first = load_images("synthetic", options, None, "cpu")
    assert load_images("synthetic", dict(reversed(options.items())), None, "cpu")[0] is first[0]
    assert load_images("synthetic", {**options, "seed": 1}, None, "cpu")[0] is not first[0]
