"""Sources of variance apart from each other: which runs they mean, and that only the one differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.engine.batches import DeviceImages
from normbench.errors import ConfigError
from normbench.experiment.plan import draft_runs
from normbench.worker.classifiers import build_run_model, build_training

BASE: dict[str, Any] = {"name": "t", "norms": ["bn"], "seeds": 3, "train": {"augment": "crop_flip"}}


def config_of(seed: int, held: dict[str, int] | None = None) -> RunConfig:
    (draft, *_) = draft_runs(load_config(BASE | {"seeds": [seed], "device": "cpu"}))
    train = draft.config["train"] | {"precision": "fp32", "engine": "eager"}
    return RunConfig.model_validate(draft.config | {"train": train, "held": held, "device": "cpu"})


def test_each_source_has_a_run_for_every_seed_but_the_first() -> None:
    drafts = draft_runs(load_config(BASE | {"sources": ["order", "initialization"]}))
    held = [(d.config["seed"], d.config["held"]) for d in drafts if d.config.get("held")]
    assert held == [
        (seed, {other: 0 for other in ("initialization", "order", "augmentation") if other != source})
        for seed in (1, 2)
        for source in ("order", "initialization")
    ]
    assert len(drafts) == 3 + 4


def test_augmentation_must_be_there_to_vary() -> None:
    with pytest.raises(ConfigError, match="augmentation cannot vary"):
        draft_runs(load_config(BASE | {"sources": ["augmentation"], "train": {}}))


def test_run_ids_are_what_they_were_and_differ_where_a_seed_is_held() -> None:
    plain = config_of(1)
    assert "held" not in plain.model_dump(mode="json")
    assert config_of(1, {"order": 0}).run_id != plain.run_id


def test_only_what_is_not_held_differs() -> None:
    images = DeviceImages(np.zeros((64, 32, 32, 3), np.uint8), np.arange(64) % 10, "cpu", channels_last=True)

    def drawn(config: RunConfig) -> tuple[torch.Tensor, ...]:
        training = build_training(config, images, images)
        order, crops = training.draw_epoch(1)
        assert crops is not None
        return next(build_run_model(config).parameters()), order, *crops

    first, second = drawn(config_of(0)), drawn(config_of(1))
    for source, own in (("initialization", (0,)), ("order", (1,)), ("augmentation", (2, 3, 4))):
        others = {other: 0 for other in ("initialization", "order", "augmentation") if other != source}
        for position, tensor in enumerate(drawn(config_of(1, others))):
            expected = second if position in own else first
            assert torch.equal(tensor, expected[position])
