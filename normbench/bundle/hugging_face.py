"""Uploads a bundle to a dataset repository of the Hugging Face Hub, with the extra ``publish``."""

from __future__ import annotations

import os

import yaml

from normbench.bundle.description import KEYWORDS
from normbench.bundle.publication import Publication, Published
from normbench.errors import EnvironmentProblem, first_line

TOKEN_VARIABLE = "HF_TOKEN"


def endpoint() -> str:
    """Return where the Hub is: what ``HF_ENDPOINT`` says, as `huggingface_hub` reads it too."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def card(publication: Publication) -> str:
    """Return the repository's page: the bundle's README below what the Hub reads of a data set."""
    facts = {
        "license": str(publication.metadata.get("license", "other")),
        "pretty_name": publication.title,
        "tags": ["normbench", *(word.replace(" ", "-") for word in KEYWORDS if word != "NormBench")],
    }
    readme = publication.readme.replace("FILE.nbz", publication.bundle.name)
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n{readme}"


def upload(publication: Publication, repository: str, token: str, *, private: bool) -> Published:
    """Make the data set's repository if it is not there, and commit the bundle and its page.

    Raises:
        EnvironmentProblem: `huggingface_hub` is not installed, or the Hub refuses or does not answer.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise EnvironmentProblem("publishing at the Hub needs `pip install 'normbench[publish]'`") from None
    disable_progress_bars()
    api = HfApi(endpoint=endpoint(), token=token)
    files = [
        CommitOperationAdd("README.md", card(publication).encode()),
        CommitOperationAdd(publication.bundle.name, publication.bundle),
    ]
    try:
        api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True)
        api.create_commit(repository, files, commit_message=f"Result {publication.result_id[:16]}", repo_type="dataset")
    except (OSError, ValueError, RuntimeError) as error:  # what `huggingface_hub` raises is one of them
        reason = ": ".join(first_line(part) for part in (error, error.__cause__) if isinstance(part, Exception))
        raise EnvironmentProblem(f"{publication.target}: {reason}") from None
    return Published(publication.target)
