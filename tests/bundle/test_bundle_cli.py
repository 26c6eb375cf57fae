"""The commands around bundles: what they print, write and exit with."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zipped_bundle import FILES, changed, complete, contents, texts_in, write_zip

Command = Callable[..., Any]


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "tiny.nbz"))


@pytest.fixture
def quick(normbench: Command, made: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The program without what takes seconds to draw."""
    monkeypatch.setattr("normbench.bundle.verify.report_texts", lambda _, **__: texts_in(made))
    monkeypatch.setattr("normbench.bundle.write.write_report_of", lambda _, **__: [])
    return normbench


def test_bundle_writes_a_file_named_like_the_experiment(quick: Command, experiment: Path, tmp_path: Path) -> None:
    result = quick("bundle", "tiny", "--author", "Lovelace, Ada", "--license", "CC0-1.0")
    assert result.code == 0
    found = re.fullmatch(r"tiny\.nbz: 6 runs, [\d,]+ bytes\nresult id ([0-9a-f]{64})\n", result.out)
    assert found
    files = contents(tmp_path / "tiny.nbz")
    assert json.loads(files["bundle.json"])["result_id"] == found[1]
    assert json.loads(files[".zenodo.json"])["license"] == "cc0-1.0"
    as_json = json.loads(quick("bundle", "tiny", "--json").out)
    assert (as_json["result_id"], as_json["num_runs"]) == (found[1], 6)
    assert quick("bundle", "tiny", "-o", "tiny.zip").code == 2
    assert quick("bundle", "nothing").code == 1
    (tmp_path / "mine.nbz").write_text("mine")
    assert quick("bundle", "tiny", "-o", "mine.nbz").code == 3


def test_verify_says_what_it_looked_at(quick: Command, bundle: Path) -> None:
    result = quick("verify", "tiny.nbz")
    assert result.code == 0
    lines = result.out.splitlines()
    assert "ok      checksums" in lines
    assert "ok      tables" in lines
    assert "tiny.nbz: verified, 6 runs" in lines
    as_json = json.loads(quick("verify", "tiny.nbz", "--json").out)
    assert as_json["verified"] is True


def test_verify_ends_with_1_and_names_what_is_wrong(quick: Command, bundle: Path, tmp_path: Path) -> None:
    name = next(name for name in contents(bundle) if name.endswith("summary.json"))
    summary = json.dumps(json.loads(contents(bundle)[name]) | {"test_accuracy": 0.99}).encode()
    changed(bundle, tmp_path / "better.nbz", {name: summary}, with_sums=True)
    result = quick("verify", "better.nbz")
    assert result.code == 1
    assert "FAILED  last epoch" in result.out
    assert "test_accuracy is 0.99 in its result" in result.out
    assert "better.nbz: NOT verified, 6 runs" in result.out
    as_json = json.loads(quick("verify", "better.nbz", "--json").out)
    assert as_json["verified"] is False
    assert quick("verify", "nothing.nbz").code == 1


def test_table_and_report_take_a_bundle(normbench: Command, bundle: Path, experiment: Path, tmp_path: Path) -> None:
    assert normbench("table", "tiny.nbz").out == normbench("table", "tiny").out
    before = bundle.read_bytes()
    result = normbench("report", "tiny.nbz")
    assert result.code == 0
    written = result.out.split()
    assert "tiny-report/report.html" in written
    assert bundle.read_bytes() == before
    page = (tmp_path / "tiny-report" / "report.html").read_text()
    without_links = re.sub(r'<a href="\.\./[^"]+">(.*?)</a>', r"\1", texts_in(bundle)["report.html"])
    assert page.partition("<footer>")[0] == without_links.partition("<footer>")[0]


def test_merge_makes_a_folder_or_a_bundle(quick: Command, bundle: Path, experiment: Path, tmp_path: Path) -> None:
    result = quick("merge", "tiny.nbz", "tiny", "-o", "all.nbz")
    assert (result.code, result.out) == (0, "all.nbz: 6 runs, 6 of them in more than one source\n")
    assert quick("table", "all.nbz", "--format", "csv").out == quick("table", "tiny", "--format", "csv").out
    assert quick("merge", "tiny.nbz", "-o", "folder").code == 0
    assert (tmp_path / "folder" / "experiment.yaml").exists()
    assert quick("merge", "tiny.nbz", "-o", "folder").code == 3


def test_publish_sends_nothing_unless_told_to(quick: Command, bundle: Path) -> None:
    result = quick("publish", "tiny.nbz", "--to", "hf:group/norms")
    assert result.code == 0
    assert "Nothing was sent. With --yes, and HF_TOKEN set, it is." in result.out
    assert quick("publish", "tiny.nbz", "--to", "ftp:x").code == 2


def test_publish_without_a_token_ends_with_3(quick: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZENODO_TOKEN", raising=False)
    result = quick("publish", "tiny.nbz", "--to", "zenodo", "--yes")
    assert result.code == 3
    assert "no token: set ZENODO_TOKEN" in result.err


def test_a_baseline_that_cannot_be_had_ends_the_comparison_before_it_begins(normbench: Command, tmp_path: Path) -> None:
    arguments = ("compare", "gn", "--dataset", "synthetic", "--device", "cpu", "--baseline-from")
    write_zip(tmp_path / "other.nbz", complete(FILES))
    result = normbench(*arguments, "other.nbz")
    assert result.code == 1
    assert "other.nbz" in result.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(params=["escape", "cut", "newer", "no bundle"])
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    files = complete(FILES)
    if request.param == "escape":
        files["../evil.txt"] = b"x"
    if request.param == "newer":
        files["bundle.json"] = json.dumps({"format": "normbench bundle", "version": 99}).encode()
    if request.param == "no bundle":
        files = {"readme.txt": b"x"}
    (tmp_path / "inner").mkdir()
    path = write_zip(tmp_path / "inner/bad.nbz", files)
    if request.param == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    yield "inner/bad.nbz"
    assert sorted(os.listdir(tmp_path)) == ["inner"]
    assert os.listdir(tmp_path / "inner") == ["bad.nbz"]


def test_a_bad_bundle_is_a_short_error_in_every_command(quick: Command, bad: str) -> None:
    for arguments in (
        ("table", bad), ("report", bad), ("verify", bad), ("merge", bad, "-o", "inner/joined"),
        ("publish", bad, "--to", "zenodo"), ("show", f"{bad}/x/bn"), ("bundle", bad),
    ):  # fmt: skip
        result = quick(*arguments)
        assert result.code == 1, arguments
        said = result.out + result.err
        assert "bad.nbz" in said
        assert "Traceback" not in said
        assert len(said) < 1000
