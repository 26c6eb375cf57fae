"""Shards: parts of an experiment that are run apart, on other machines or by a job array, and merged afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from normbench.errors import ConfigError
from normbench.experiment.plan import RunPlan

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of several parts of an experiment, which together hold each run once."""

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that ``K/N`` names.

        Raises:
            ConfigError: it is not written so, or K is not among 1 to N.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard {text}: write it as K/N, part K of N: --shard 1/4 to --shard 4/4")
        return cls(int(found[1]), int(found[2]))

    def of(self, plans: Sequence[RunPlan]) -> list[RunPlan]:
        """Return the shard's runs: whole seeds, so that one machine trains all that is compared, or a part of one seed.

        A part of a seed is what there is only where there are more shards than seeds.

        Raises:
            ConfigError: there are more shards than runs.
        """
        if self.count > len(plans):
            raise ConfigError(f"--shard {self}: {len(plans)} runs make at most {len(plans)} shards")
        by_seed: dict[int, list[RunPlan]] = {}
        for plan in plans:
            by_seed.setdefault(plan.config.seed, []).append(plan)
        seeds, position = list(by_seed.values()), self.number - 1
        if self.count <= len(seeds):
            return [plan for runs in _part(seeds, position, self.count) for plan in runs]
        num_parts = [1] * len(seeds)
        for _ in range(self.count - len(seeds)):
            largest = max(range(len(seeds)), key=lambda seed: len(seeds[seed]) / num_parts[seed])
            num_parts[largest] += 1
        parts = [
            _part(runs, part, count) for runs, count in zip(seeds, num_parts, strict=True) for part in range(count)
        ]
        return list(parts[position])

    def __str__(self) -> str:
        """Return ``K/N``."""
        return f"{self.number}/{self.count}"


def _part(items: Sequence[T], position: int, count: int) -> Sequence[T]:
    """Return one of `count` parts of `items` whose lengths differ by no more than one."""
    return items[position * len(items) // count : (position + 1) * len(items) // count]
