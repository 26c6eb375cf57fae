"""Arguments of a comparison that ends where it is resolved; imports little, as a training process starts after it."""

from __future__ import annotations

from normbench.errors import ConfigError


def most_seeds(seeds: object, max_seeds: int | None, *, until_resolved: bool) -> int | None:
    """Return the most seeds of a comparison that ends where it is resolved; None where it does not.

    Raises:
        ConfigError: arguments that contradict each other.
    """
    if not until_resolved:
        if max_seeds is not None:
            raise ConfigError("--max-seeds is the most that --until-resolved may take: give both")
        return None
    if seeds is not None:
        raise ConfigError("--until-resolved adds seeds as they are needed: give --max-seeds in place of --seeds")
    from normbench.report.sequential import SCHEDULE

    found = SCHEDULE[-1] if max_seeds is None else max_seeds
    if found < SCHEDULE[0]:
        raise ConfigError(f"--max-seeds {found} is not allowed: a verdict takes at least {SCHEDULE[0]} seeds")
    return found
