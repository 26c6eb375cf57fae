"""What a run records of the program, its packages and its place: enough to run it again, and nothing else."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normbench
from normbench.data import load_dataset
from normbench.data.images import arrays_sha256
from normbench.runs.places import without_places
from normbench.runs.provenance import (
    CHANGES,
    PACKAGES,
    describe_program,
    locked_packages,
    source_sha256,
    write_provenance,
)

PACKAGE = Path(normbench.__file__).parent


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("--data-dir=/home/ada/cifar", "--data-dir=.../cifar"), ("/home/ada/x.npz (npz)", ".../x.npz (npz)"),
        ("/home/ada", "..."), ("/Users/ada/", "..."), ("'/home/ada/my data/x'", "'.../x'"), ("~/x/y", ".../y"),
        ("~ada/y", ".../y"), (r"C:\Users\ada\x.txt", ".../x.txt"), (r"\\host\share\x", ".../x"), ("/data", ".../data"),
        ("file:///home/ada/x", ".../x"), ("[/a/b, /c/d]", "[.../b, .../d]"),
        ('File "/a/b c/x.py", line 3', 'File ".../x.py", line 3'),
        *((text, text) for text in ("https://a.b/c/d", "runs/x/y", "../x/y", "1/2", "MiB/s", "a / b", ".../x")),
    ],
)  # fmt: skip
def test_of_an_absolute_path_the_last_part_stays(text: str, public: str) -> None:
    assert without_places(text) == public
    assert without_places({"a": [text, 1, None, True, 0.5]}) == {"a": [public, 1, None, True, 0.5]}
    assert without_places(public) == public


def test_packages_are_locked_as_pip_writes_them() -> None:
    lines = locked_packages().splitlines()
    assert f"numpy=={importlib.metadata.version('numpy')}" in lines
    assert f"torch=={importlib.metadata.version('torch')}" in lines
    assert not [line for line in lines if line.startswith("normbench==")]
    assert lines == sorted(lines)
    assert len(lines) == len(set(lines))
    assert describe_program()["packages_sha256"] == hashlib.sha256(locked_packages().encode()).hexdigest()


def test_the_texts_of_hashes_are_kept_once(tmp_path: Path) -> None:
    write_provenance(tmp_path)
    program = describe_program()
    path = tmp_path / PACKAGES.path(program["packages_sha256"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == program["packages_sha256"]
    if program["diff_sha256"]:
        diff = (tmp_path / CHANGES.path(program["diff_sha256"])).read_bytes()
        assert hashlib.sha256(diff).hexdigest() == program["diff_sha256"]
    before = path.stat().st_mtime_ns
    write_provenance(tmp_path)
    assert path.stat().st_mtime_ns == before


def described(site: Path, folder: Path) -> dict[str, object]:
    """What a copy of the package under `site` says of itself; its texts go into `folder`."""
    code = (
        "import json, pathlib, sys; from normbench.runs.provenance import describe_program, write_provenance; "
        "write_provenance(pathlib.Path(sys.argv[1])); print(json.dumps(describe_program()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(result.stdout))


def git(folder: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_dirty_tree_is_its_commit_and_its_diff(tmp_path: Path) -> None:
    """The commit with the diff applied is the source that ran, to the byte."""
    tree, records, again = tmp_path / "tree", tmp_path / "records", tmp_path / "again"
    shutil.copytree(PACKAGE, tree / "normbench", ignore=shutil.ignore_patterns("__pycache__"))
    records.mkdir()
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "first")
    clean = described(tree, records)
    assert (clean["dirty"], clean["diff_sha256"]) == (False, None)
    assert clean["source_sha256"] == source_sha256()  # copied elsewhere, it is the same source
    assert clean["argv"] == ["normbench", ".../records"]
    with (tree / "normbench" / "version.py").open("a") as file:
        file.write("# changed: ä\n")
    dirty = described(tree, records)
    assert dirty["dirty"] is True
    assert dirty["commit"] == clean["commit"]
    assert dirty["source_sha256"] != clean["source_sha256"]
    git(tmp_path, "clone", "-q", str(tree), str(again))
    git(again, "apply", str(records / CHANGES.path(str(dirty["diff_sha256"]))))
    assert described(again, records)["source_sha256"] == dirty["source_sha256"]


def test_an_installed_package_knows_its_source_and_no_commit(tmp_path: Path) -> None:
    """A wheel adds the built-in configs and nothing else to the package's folder."""
    shutil.copytree(PACKAGE, tmp_path / "site" / "normbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "configs", tmp_path / "site" / "normbench" / "configs")
    found = described(tmp_path / "site", tmp_path)
    assert found["source_sha256"] == source_sha256()
    assert (found["commit"], found["dirty"], found["diff_sha256"]) == (None, None, None)


def test_the_hash_of_images_is_that_of_their_bytes_in_order() -> None:
    dataset = load_dataset("synthetic", num_train=20, num_test=10)
    digest = hashlib.sha256()
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    assert dataset.sha256 == digest.hexdigest()
    assert arrays_sha256(dataset.x_train[::-1]) != arrays_sha256(dataset.x_train)
    assert arrays_sha256(dataset.x_train[:, ::2]) == arrays_sha256(np.ascontiguousarray(dataset.x_train[:, ::2]))
