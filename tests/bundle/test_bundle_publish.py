"""Publishing, against servers on 127.0.0.1 that stand for the Hub and for Zenodo, and answer as their pages say."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from zipped_bundle import changed, contents

from normbench.bundle import publish as publish_module
from normbench.bundle import zenodo
from normbench.bundle.publish import place_of, plan_publication, publish
from normbench.bundle.verify import Check, Verification, verify
from normbench.errors import ConfigError, EnvironmentProblem, RunError

TOKEN = "secret-token-123"
DOI = "10.5281/zenodo.99"
DRAFT = {"prereserve_doi": {"doi": DOI}}


class Server(ThreadingHTTPServer):
    """Keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, str | None, bytes]] = []
        self.answers: dict[str, tuple[int, dict[str, str], Any]] = {}
        """By the path's end: status, headers and body, in place of the usual answer."""

    def sent(self, method: str, end: str) -> bytes:
        (body,) = [body for how, path, _, body in self.requests if how == method and path.endswith(end)]
        return body


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Authorization"), body))
        status, headers, content = next(
            (answer for end, answer in self.server.answers.items() if path.endswith(end)), (200, {}, None)
        )
        text = json.dumps(self.usual(path, body) if content is None else content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def usual(self, path: str, body: bytes) -> Any:
        url = self.server.url
        if path == "/api/repos/create":
            return {"url": f"{url}/datasets/group/norms"}
        if path.endswith("/preupload/main"):
            modes = {
                file["path"]: "lfs" if file["path"].endswith(".nbz") else "regular"
                for file in json.loads(body)["files"]
            }
            return {
                "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            }
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "authenticated": True,
                    "actions": {"upload": {"href": f"{url}/lfs"}},
                }
                for one in json.loads(body)["objects"]
            ]
            return {"transfer": "basic", "objects": objects}
        if path.endswith("/commit/main"):
            return {"commitUrl": f"{url}/datasets/group/norms/commit/1", "commitOid": "1" * 40, "success": True}
        if path == "/api/deposit/depositions":
            links = {"bucket": f"{url}/api/files/bucket-1", "html": f"{url}/deposit/99"}
            return {"id": 99, "links": links, "metadata": DRAFT}
        return {}

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, made: Path) -> Iterator[Server]:
    """A server, and an environment in which it is the only one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(publish_module, "verify", lambda path: Verification(path, id_of(made), 6, ()))
    for variable in ("HF_TOKEN", "ZENODO_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr(zenodo, "ENDPOINT", found.url)
        yield found
        found.shutdown()


def id_of(made: Path) -> str:
    return str(json.loads(contents(made)["bundle.json"])["result_id"])


def test_planning_sends_nothing_and_asks_for_no_token(made: Path, server: Server) -> None:
    for to in ("hf:group/norms", "zenodo"):
        planned = plan_publication(made, place_of(to))
        assert planned.title == "tiny: normalization layers compared on synthetic images, not CIFAR-10"
        with pytest.raises(EnvironmentProblem, match=r"no token: set (HF|ZENODO)_TOKEN"):
            publish(planned, place_of(to))
    assert server.requests == []


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of what huggingface_hub calls
def test_the_hub_gets_the_bundle_and_a_card(made: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    place = place_of("hf:group/norms", private=True)
    planned = plan_publication(made, place)
    published = publish(planned, place)
    assert published.url == f"{server.url}/datasets/group/norms"
    created = json.loads(server.sent("POST", "/api/repos/create"))
    assert (created["type"], created["organization"], created["name"]) == ("dataset", "group", "norms")
    assert created["visibility"] == "private"
    assert server.sent("PUT", "/lfs") == made.read_bytes()
    commit = [json.loads(line) for line in server.sent("POST", "/commit/main").splitlines()]
    files = {entry["value"]["path"]: entry for entry in commit if entry["key"] != "header"}
    assert files.keys() == {"README.md", "tiny.nbz"}
    _, facts, page = base64.b64decode(files["README.md"]["value"]["content"]).decode().split("---\n", 2)
    assert yaml.safe_load(facts)["license"] == "cc-by-4.0"
    assert page.strip() == contents(made)["README.md"].decode().replace("FILE.nbz", "tiny.nbz").strip()
    tokens = {token for _, path, token, _ in server.requests if path != "/lfs"}
    assert tokens == {f"Bearer {TOKEN}"}
    cited = planned.bibtex(published)
    assert "author = {Lovelace, Ada and The Example Society}," in cited
    assert planned.result_id in cited


def test_zenodo_gets_a_draft(made: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    place = place_of("zenodo")
    published = publish(plan_publication(made, place), place)
    assert (published.doi, published.url) == (DOI, f"{server.url}/deposit/99")
    assert [request[:3] for request in server.requests] == [
        ("POST", "/api/deposit/depositions", f"Bearer {TOKEN}"),
        ("PUT", "/api/files/bucket-1/tiny.nbz", f"Bearer {TOKEN}"),
    ]  # and no request that publishes it
    metadata = json.loads(server.requests[0][3])["metadata"]
    assert metadata == json.loads(contents(made)[".zenodo.json"]) | {"prereserve_doi": True}
    assert server.requests[1][3] == made.read_bytes()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((401, {}, {"message": f"bad token {TOKEN}"}), r"401 .*bad token \*\*\*"),
        ((302, {"Location": "http://127.0.0.1:9/steal"}, {}), "302"),
        ((200, {}, {"id": 1}), "without the links of a draft"),
        ((200, {}, [1]), "answered no JSON object"),
        (
            (
                200,
                {},
                {"links": {"bucket": "http://evil.example/b", "html": ""}, "metadata": {"prereserve_doi": {"doi": ""}}},
            ),
            "wants the file at http://evil.example/b, where the token is not sent",
        ),
    ],
    ids=["refused", "redirect", "no links", "no object", "elsewhere"],
)
def test_what_zenodo_answers_amiss_is_told_without_the_token(
    made: Path, server: Server, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, dict[str, str], Any], problem: str
) -> None:
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    server.answers["/depositions"] = answer
    place = place_of("zenodo")
    with pytest.raises(EnvironmentProblem, match=problem) as caught:
        publish(plan_publication(made, place), place)
    assert TOKEN not in str(caught.value)
    assert len(server.requests) == 1


def test_what_the_hub_answers_amiss_is_told_without_the_token(
    made: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.answers["/create"] = (401, {}, {"error": f"no rights for {TOKEN}"})
    server.answers["/api/datasets/group/norms"] = (404, {}, {})
    place = place_of("hf:group/norms")
    with pytest.raises(EnvironmentProblem, match=r"datasets/group/norms: .*401") as caught:
        publish(plan_publication(made, place), place)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (b"{", "cannot be read"), (b"[]", "not the metadata of a deposit"), (b'{"creators": 3}', "asks for authors"),
        (b'{"creators": ["x", {}]}', "asks for authors"),
    ],
)  # fmt: skip
def test_metadata_of_strangers_is_checked(
    made: Path, tmp_path: Path, server: Server, metadata: bytes, problem: str
) -> None:
    path = changed(made, tmp_path / "a.nbz", {".zenodo.json": metadata}, with_sums=True)
    with pytest.raises((RunError, ConfigError), match=problem):
        plan_publication(path, place_of("zenodo"))


def test_a_token_does_not_travel_in_the_clear(made: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    monkeypatch.setattr(zenodo, "ENDPOINT", "http://zenodo.example")
    place = place_of("zenodo")
    with pytest.raises(EnvironmentProblem, match="over https only"):
        publish(plan_publication(made, place), place)


@pytest.mark.parametrize("to", ["hf:norms", "hf:a/b/c", "hf:../x", "hf:", "github", "hf:a/b?c", ""])
def test_a_place_that_is_none_is_told(to: str) -> None:
    with pytest.raises(ConfigError, match=r"write hf:ORG/REPO or zenodo"):
        place_of(to)


def test_what_a_place_does_not_have_is_told(made: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="only Zenodo has one"):
        place_of("hf:a/b", sandbox=True)
    with pytest.raises(ConfigError, match="a draft"):
        place_of("zenodo", private=True)
    assert place_of("zenodo", sandbox=True).address == "https://sandbox.zenodo.org"
    unverified = Verification(made, None, 0, (Check("checksums", ("steps.csv was altered",)),))
    monkeypatch.setattr(publish_module, "verify", lambda _: unverified)
    with pytest.raises(RunError, match=r"not verified, so not published: steps\.csv was altered"):
        plan_publication(made, place_of("zenodo"))
    assert verify is not publish_module.verify
