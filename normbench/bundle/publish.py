"""Publishes a verified bundle, on the Hugging Face Hub or on Zenodo. Tokens come from the environment only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from normbench.bundle import hugging_face, zenodo
from normbench.bundle.description import README_FILE, ZENODO_FILE
from normbench.bundle.publication import Publication, Published
from normbench.bundle.verify import verify
from normbench.errors import ConfigError, EnvironmentProblem, RunError
from normbench.runs.bundle_file import open_bundle
from normbench.runs.regular_files import damaged
from normbench.runs.untrusted import read_json

_HUB, _ZENODO = "hf:", "zenodo"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where a bundle can be published."""

    address: str
    token_variable: str
    """The environment variable that holds the token."""
    send: Callable[[Publication, str], Published]
    """Takes the publication and the token."""
    needs_authors: bool = False


def place_of(to: str, *, sandbox: bool = False, private: bool = False) -> Place:
    """Return the place that ``--to`` names.

    Raises:
        ConfigError: there is no such place, or it has no sandbox or nothing private.
    """
    if to == _ZENODO:
        if private:
            raise ConfigError("--private: what is sent to Zenodo is a draft, which nobody sees until you publish it")
        endpoint = zenodo.SANDBOX if sandbox else zenodo.ENDPOINT
        send = partial(_send_to_zenodo, endpoint)
        return Place(endpoint, zenodo.TOKEN_VARIABLE, send, needs_authors=True)
    repository = to.removeprefix(_HUB)
    if not to.startswith(_HUB) or not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--to {to}: write hf:ORG/REPO or zenodo")
    if sandbox:
        raise ConfigError("--sandbox: only Zenodo has one")
    address = f"{hugging_face.endpoint()}/datasets/{repository}"
    return Place(address, hugging_face.TOKEN_VARIABLE, partial(_send_to_hub, repository, private))


def plan_publication(bundle: Path, place: Place) -> Publication:
    """Verify the bundle and return what would be published; sends nothing.

    Raises:
        ConfigError: the bundle lacks what the place asks for.
        RunError: the bundle is not verified.
    """
    found = verify(bundle)
    if not found.verified or found.result_id is None:
        first = next(problem for check in found.checks for problem in check.problems)
        raise RunError(f"{bundle}: not verified, so not published: {first}")
    metadata = read_json(bundle / ZENODO_FILE)
    if not isinstance(metadata, dict):
        raise damaged(bundle / ZENODO_FILE, "not the metadata of a deposit")
    readme = open_bundle(bundle).read(README_FILE).decode(errors="replace")
    publication = Publication(bundle, found.result_id, place.address, readme, metadata)
    if place.needs_authors and not publication.authors:
        raise ConfigError(f"{bundle}: {place.address} asks for authors: bundle it with --author 'Family, Given'")
    return publication


def publish(publication: Publication, place: Place) -> Published:
    """Send what was planned.

    Raises:
        EnvironmentProblem: there is no token, or the other side refuses or does not answer.
    """
    token = os.environ.get(place.token_variable, "").strip()
    if not token:
        raise EnvironmentProblem(f"no token: set {place.token_variable} to one that may write at {place.address}")
    try:
        return place.send(publication, token)
    except EnvironmentProblem as error:
        raise EnvironmentProblem(str(error).replace(token, "***")) from None


def _send_to_hub(repository: str, private: bool, publication: Publication, token: str) -> Published:
    return hugging_face.upload(publication, repository, token, private=private)


def _send_to_zenodo(endpoint: str, publication: Publication, token: str) -> Published:
    return zenodo.upload(publication, endpoint, token)
