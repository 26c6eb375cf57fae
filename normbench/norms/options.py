"""Checks that several norms share; each says what is wrong and what is allowed."""

from __future__ import annotations

from normbench.errors import ConfigError


def check_eps(norm: str, eps: float) -> None:
    """Raise `ConfigError` unless `eps` is a positive number."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not eps > 0:
        raise ConfigError(f"{norm}: eps must be a number > 0, not {eps!r}")


def resolve_groups(norm: str, num_channels: int, groups: int | None, group_size: int | None) -> int:
    """Return the number of groups that `groups` or `group_size` means for `num_channels`.

    Raises:
        ConfigError: both or neither are given, or they do not divide the channels; the message lists what does.
    """
    if (groups is None) == (group_size is None):
        raise ConfigError(f"{norm}: give one of groups and group_size, not both or neither")
    name, value = ("groups", groups) if group_size is None else ("group_size", group_size)
    allowed = [n for n in range(1, num_channels + 1) if num_channels % n == 0]
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise ConfigError(
            f"{norm}: {name}={value!r} does not divide {num_channels} channels. Allowed: {', '.join(map(str, allowed))}"
        )
    return value if group_size is None else num_channels // value
