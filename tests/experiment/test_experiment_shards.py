"""Shards: every run in one of them, a seed in as few as can be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_events import make_plan

from normbench.errors import ConfigError
from normbench.experiment.shards import Shard

PLANS = [make_plan(norm, seed=seed) for seed in (3, 1, 4, 0, 5) for norm in ("bn", "gn", "in", "ln")]


@settings(max_examples=60, deadline=None)
@given(num_plans=st.integers(1, len(PLANS)), data=st.data())
def test_shards_hold_every_run_once_and_split_no_seed_without_need(num_plans: int, data: st.DataObject) -> None:
    plans = PLANS[:num_plans]
    count = data.draw(st.integers(1, num_plans))
    num_seeds = len({plan.config.seed for plan in plans})
    shards = [Shard(number, count).of(plans) for number in range(1, count + 1)]
    assert [plan for shard in shards for plan in shard] == plans
    assert all(shards)
    seeds = [{plan.config.seed for plan in shard} for shard in shards]
    if count <= num_seeds:
        assert sum(map(len, seeds)) == num_seeds
        assert max(map(len, seeds)) - min(map(len, seeds)) <= 1
    else:
        assert all(len(found) == 1 for found in seeds)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "1/4/2", "a/b", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as K/N"):
        Shard.parse(text)


def test_more_shards_than_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="--shard 1/21: 20 runs make at most 20 shards"):
        Shard.parse("1/21").of(PLANS)
