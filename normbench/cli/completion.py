"""What the shell offers after TAB: norms, networks, data sets, configs, run folders, devices. Needs no torch.

`normbench --install-completion` installs it for bash, zsh and fish. Every function takes what is typed so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

Offers = list[tuple[str, str]]
"""Each value with a word on it, which zsh and fish show."""


def norm_names(incomplete: str) -> Offers:
    """Offer norms, after a plus sign their weight methods, and after a comma one more norm of a list."""
    from normbench.norms import NORMS, SEQUENCE_NORMS, WEIGHTS

    listed, comma, last = incomplete.rpartition(",")
    base, plus, _ = last.partition("+")
    if plus:
        found = {f"{base}+{key}": weight.full_name for key, weight in WEIGHTS.items() if base in NORMS}
    else:
        norms = chain(SEQUENCE_NORMS.items(), NORMS.items())
        found = {key: norm.full_name.partition(":")[0] for key, norm in norms}  # zsh shows one line each
    return [(f"{listed}{comma}{name}", text) for name, text in _starting(last, found.items())]


def model_names(incomplete: str) -> Offers:
    """Offer the networks that `compare` and `train` take."""
    from normbench.models import MODELS

    models = ((key, model.description) for key, model in MODELS.items() if model.task == "classification")
    return _starting(incomplete, models)


def dataset_names(incomplete: str) -> Offers:
    """Offer the data sets."""
    from normbench.data import DATASETS

    return _starting(incomplete, ((key, dataset.description) for key, dataset in DATASETS.items()))


def config_names(incomplete: str) -> Offers:
    """Offer the built-in configs, and folders and YAML files."""
    from normbench.config.built_in import built_in_configs

    built_in = _starting(incomplete, ((name, "built-in config") for name in built_in_configs()))
    return [*built_in, *_paths(incomplete, lambda path: path.is_dir() or path.suffix in (".yaml", ".yml"))]


def configs_and_norms(incomplete: str) -> Offers:
    """Offer what `compare` takes: a config, or norms."""
    return [*config_names(incomplete), *norm_names(incomplete)]


def folders(incomplete: str) -> Offers:
    """Offer folders."""
    return _paths(incomplete, Path.is_dir)


def run_folders(incomplete: str) -> Offers:
    """Offer folders, those under ``runs/`` first where nothing is typed yet."""
    return _paths(incomplete or "runs/", Path.is_dir) or folders(incomplete)


def one_of(*values: str) -> Callable[[str], Offers]:
    """Return the function that offers these values."""

    def offer(incomplete: str) -> Offers:
        return _starting(incomplete, ((value, "") for value in values))

    return offer


def _starting(incomplete: str, offers: Iterable[tuple[str, str]]) -> Offers:
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def _paths(incomplete: str, is_wanted: Callable[[Path], bool]) -> Offers:
    """Return the wanted paths that begin like `incomplete`, folders with a slash at their end; hidden ones if asked.

    A folder that is the only one comes with what is in it: of several values bash completes what they share, and of
    one it believes that the word has ended.
    """
    folder, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted((Path(folder) if folder else Path(slash or ".")).iterdir())
    except OSError:
        return []
    found = [
        f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(start) and (start or not entry.name.startswith(".")) and is_wanted(entry)
    ]
    if start and len(found) == 1 and found[0].endswith("/"):
        return [(found[0], ""), *_paths(found[0], is_wanted)]
    return [(path, "") for path in found]
