"""Makes a draft of a deposit on Zenodo by its REST interface (https://developers.zenodo.org)."""

from __future__ import annotations

import json
import os
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from normbench.bundle.publication import Publication, Published
from normbench.errors import EnvironmentProblem, shown

ENDPOINT = "https://zenodo.org"
SANDBOX = "https://sandbox.zenodo.org"
TOKEN_VARIABLE = "ZENODO_TOKEN"
_SECONDS_OF_SILENCE = 60.0
_MAX_ANSWER_BYTES = 2**20
_HERE = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(HTTPRedirectHandler):
    """Follows nothing: the token would go along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def upload(publication: Publication, endpoint: str, token: str) -> Published:
    """Make a draft with the bundle and its metadata; people look at it and publish it there, which cannot be undone.

    Raises:
        EnvironmentProblem: Zenodo refuses, does not answer, or answers what makes no sense.
    """
    metadata = {**publication.metadata, "prereserve_doi": True}
    body = json.dumps({"metadata": metadata}).encode()
    draft = _request("POST", f"{endpoint}/api/deposit/depositions", token, body, "application/json")
    try:
        bucket, page = str(draft["links"]["bucket"]), str(draft["links"]["html"])
        doi = str(draft["metadata"]["prereserve_doi"]["doi"])
    except (KeyError, TypeError):
        raise EnvironmentProblem(f"{endpoint}: answered without the links of a draft") from None
    if urlsplit(bucket)[:2] != urlsplit(endpoint)[:2]:
        raise EnvironmentProblem(f"{endpoint}: wants the file at {shown(bucket)}, where the token is not sent")
    with publication.bundle.open("rb") as file:
        _request("PUT", f"{bucket}/{quote(publication.bundle.name)}", token, file, "application/octet-stream")
    return Published(page, doi, "a draft: look at it there and publish it; its DOI counts from then on")


def _request(method: str, url: str, token: str, body: bytes | IO[bytes], media_type: str) -> dict[str, Any]:
    """Send `body` and return the JSON of the answer."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _HERE:
        raise EnvironmentProblem(f"{url}: a token is sent over https only")
    size = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
    headers = {"Authorization": f"Bearer {token}", "Content-Type": media_type, "Content-Length": str(size)}
    request = Request(url, data=body, headers=headers, method=method)
    try:
        with build_opener(_NoRedirect).open(request, timeout=_SECONDS_OF_SILENCE) as answer:
            found = json.loads(answer.read(_MAX_ANSWER_BYTES))
    except HTTPError as error:
        with error:
            said = shown(error.read(300).decode(errors="replace"))
        raise EnvironmentProblem(f"{url}: {error.code} {error.reason}: {said}") from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise EnvironmentProblem(f"{url}: {getattr(error, 'reason', None) or error}") from None
    if not isinstance(found, dict):
        raise EnvironmentProblem(f"{url}: answered no JSON object")
    return found
