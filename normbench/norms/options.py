"""How many groups a norm's options mean for a number of channels."""

from __future__ import annotations

from normbench.errors import ConfigError


def resolve_groups(
    norm: str, num_channels: int, groups: int | None, group_size: int | None, *, default: int | None = None
) -> int:
    """Return the number of groups: by `group_size` if given, else by `groups`, else `default`.

    Raises:
        ConfigError: they do not divide the channels, or nothing is given; the message lists what is allowed.
    """
    name, value = ("group_size", group_size) if group_size is not None else ("groups", groups)
    if value is None and default is not None:
        return default
    allowed = [divisor for divisor in range(1, num_channels + 1) if num_channels % divisor == 0]
    if value not in allowed:
        raise ConfigError(
            f"{norm}: {name}={value!r} does not divide {num_channels} channels. Allowed: {', '.join(map(str, allowed))}"
        )
    return num_channels // value if group_size is not None else value


def largest_divisor(num_channels: int, at_most: int = 32) -> int:
    """Return the largest divisor of `num_channels` that is at most `at_most`."""
    return max(divisor for divisor in range(1, at_most + 1) if num_channels % divisor == 0)
