"""The words after ``normbench compare``: one config, or the norms themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from normbench.config.built_in import built_in_configs, find_config
from normbench.errors import ConfigError, suggestion
from normbench.norms import NORMS, SEQUENCE_NORMS, WEIGHTS
from normbench.norms.own import offered_norms
from normbench.own_code import is_own

_EXAMPLES = "such as `normbench compare demo` or `normbench compare bn gn`"


def config_or_norms(words: Sequence[str], norms: str | None) -> tuple[Path | None, list[str] | None]:
    """Return the config file and the norms that `words` and ``--norms bn,gn`` name; None for what they do not.

    Several words can only be norms. One word is a config or a norm, whichever there is.

    Raises:
        ConfigError: there is nothing to compare; a word is neither, or both; or words and ``--norms`` both name norms.
    """
    listed = None if norms is None else [name.strip() for name in norms.split(",") if name.strip()]
    if not words and not listed:
        raise ConfigError(f"compare: give a config or norms, {_EXAMPLES}")
    named, others = [word for word in words if _is_norm(word)], [word for word in words if not _is_norm(word)]
    if named and others:
        _refuse_mixture(named, others)
    if len(words) > 1 and others:
        for word in others:
            _refuse_unless_config(word)
        raise ConfigError(f"{', '.join(others)}: compare takes one config, or norms, {_EXAMPLES}")
    if others:
        _refuse_unless_config(others[0])
        return find_config(others[0]), listed
    if named and listed:
        raise ConfigError(f"{' '.join(named)} and --norms {norms} both name norms: give one of them")
    if len(named) == 1 and _is_file(named[0]):
        (word,) = named
        raise ConfigError(
            f"{word}: is a norm and a file here: write --norms {word} for the norm, ./{word} for the file"
        )
    return None, named or listed


def _is_norm(word: str) -> bool:
    if word.endswith(".py") or (is_own(word) and not _is_config(word)):
        return True
    base, _, weight = word.partition("+")
    is_known = base in NORMS or base in SEQUENCE_NORMS or (not _is_config(word) and base in offered_norms())
    return is_known and (weight in WEIGHTS or base == word)


def _is_config(word: str) -> bool:
    return _is_file(word) or word in built_in_configs()


def _is_file(word: str) -> bool:
    with suppress(OSError):  # too long for a path
        return Path(word).is_file()
    return False


def _refuse_mixture(norms: Sequence[str], others: Sequence[str]) -> None:
    for word in others:
        _refuse_unless_config(word)
    raise ConfigError(
        f"{others[0]} is a config, {norms[0]} a norm: give one config, or norms; to compare norms under a config, "
        f"write `normbench compare {others[0]} --norms {','.join(norms)}`"
    )


def _refuse_unless_config(word: str) -> None:
    """Raise `ConfigError`, naming what is near, if `word` is no config and does not look like a path to one."""
    if _is_config(word) or Path(word).suffix or len(Path(word).parts) > 1:
        return
    configs = list(built_in_configs())
    near = suggestion(word, [*configs, *NORMS, *SEQUENCE_NORMS]).partition(" Allowed:")[0].rstrip(".")
    raise ConfigError(
        f"{word}: no config file, no built-in config and no norm of that name{near}\n"
        f"Configs: {', '.join(configs)}\nNorms: {', '.join(NORMS)}"
    )
