"""What a bundle holds, that it gives nothing away, and that the same input gives the same bytes."""

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from zipped_bundle import contents

from normbench import load_curves, load_runs
from normbench.bundle.description import Credit
from normbench.bundle.verify import verify
from normbench.bundle.write import experiment_name, write_bundle
from normbench.errors import FolderError, RunError
from normbench.report.recorded_runs import load_tables

AUTHORS = ("Lovelace, Ada", "The Example Society")


def test_a_bundle_holds_records_report_and_descriptions(made: Path, trained: Path) -> None:
    files = contents(made)
    runs = {folder.name for folder in trained.iterdir() if (folder / "status.json").exists()}
    assert len(runs) == 6
    for run in runs:
        names = {name.split("/")[2] for name in files if name.startswith(f"tiny/{run}/")}
        assert names == {
            "config.yaml", "environment.json", "metrics.jsonl", "status.json", "steps.csv", "summary.json"
        }  # fmt: skip
        assert files[f"tiny/{run}/steps.csv"] == (trained / run / "steps.csv").read_bytes()
    described = {"README.md", "CITATION.cff", ".zenodo.json", "ro-crate-metadata.json", "bundle.json", "SHA256SUMS"}
    assert described <= files.keys()
    assert {
        "tiny/experiment.yaml",
        "tiny/timing.json",
        "tiny/report/report.html",
        "tiny/report/table.tex",
    } <= files.keys()
    assert any(re.fullmatch(r"tiny/provenance/requirements-[0-9a-f]{12}\.txt", name) for name in files)
    assert not [name for name in files if "checkpoint" in name or ".lock" in name]


def test_checksums_and_id_are_those_of_sha256sum(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        archive.extractall(tmp_path)
    for folder in (tmp_path, tmp_path / "tiny"):
        for line in (folder / "SHA256SUMS").read_text().splitlines():
            digest, name = line.split("  ")
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)
    result_id = hashlib.sha256((tmp_path / "tiny" / "SHA256SUMS").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "bundle.json").read_text())["result_id"] == result_id
    report = tmp_path / "tiny" / "report"
    assert f"<code>{result_id}</code>" in (report / "report.html").read_text()
    assert f"Result {result_id[:16]}." in (report / "table.tex").read_text()
    assert result_id in (report / "report.md").read_text()
    assert result_id in (tmp_path / "README.md").read_text()


def test_a_small_bundle_has_the_same_records_and_fewer_bytes(made: Path, trained: Path, tmp_path: Path) -> None:
    found = write_bundle(trained, tmp_path / "small.nbz", Credit(AUTHORS), is_small=True)
    large, small = contents(made), contents(tmp_path / "small.nbz")
    assert large.keys() - small.keys() == {name for name in large if name.endswith((".png", ".pdf"))}
    records = {name for name in large if name.startswith("tiny/") and "/report/" not in name}
    assert {name: large[name] for name in records} == {name: small[name] for name in records}
    assert json.loads(small["bundle.json"])["version"] == 2
    assert json.loads(large["bundle.json"])["version"] == 1  # what every NormBench reads
    sizes: dict[Path, dict[str, int]] = {}
    for path in (made, found.path):
        with zipfile.ZipFile(path) as archive:
            large_ones = [entry for entry in archive.infolist() if entry.file_size > 20_000]
            sizes[path] = {entry.filename: entry.compress_size for entry in large_ones}
    assert "tiny/report/report.html" in sizes[found.path]
    assert all(size < sizes[made][name] for name, size in sizes[found.path].items())
    assert found.num_bytes < made.stat().st_size
    assert verify(found.path).verified
    assert verify(found.path).result_id == verify(made).result_id


def test_the_same_records_give_the_same_bytes_and_id_wherever_they_lie(
    made: Path, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(trained, copy, copy_function=shutil.copy)  # with new times
    (copy / "report").mkdir()
    (copy / "report" / "old.txt").write_text("no record")
    found = write_bundle(copy, tmp_path / "again.nbz", Credit(AUTHORS))
    assert (tmp_path / "again.nbz").read_bytes() == made.read_bytes()
    assert load_tables([trained])[0].result_id == found.result_id == load_tables([made])[0].result_id


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(made: Path, trained: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "normbench", "bundle", str(trained), "-o", "again.nbz"]
    for author in AUTHORS:
        arguments += ["--author", author]
    for seed, zone in (("1", "Asia/Tokyo"), ("2", "America/New_York")):
        (tmp_path / "again.nbz").unlink(missing_ok=True)
        subprocess.run(
            arguments, cwd=tmp_path, check=True, env={**__import__("os").environ, "PYTHONHASHSEED": seed, "TZ": zone}
        )
        assert (tmp_path / "again.nbz").read_bytes() == made.read_bytes()


def test_a_bundle_is_read_as_its_folder(made: Path, trained: Path) -> None:
    from_bundle, from_folder = load_runs(made), load_runs(trained)
    assert len(from_bundle) == 6
    for one, other in zip(from_bundle, from_folder, strict=True):
        assert {**one, "folder": ""} == {**other, "folder": ""}
        assert one["folder"] == str(made / "tiny" / one["run"])
    curves, same = load_curves(from_bundle[0]), load_curves(from_folder[0])
    assert curves["steps"]["loss"].tolist() == same["steps"]["loss"].tolist()
    accuracies = [row["test_accuracy"] for row in from_bundle if row["norm"] == "gn"]
    (table,) = load_tables([made])
    (gn,) = [row for row in table.rows if row.norm == "gn"]
    assert gn.results["test_accuracy"].estimate.mean == pytest.approx(fmean(accuracies), rel=1e-12)


def test_no_place_user_or_host_is_in_it(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.bundle.write.write_report_of", lambda _, **__: [])
    (run,) = experiment.glob("bn-*-s0-*")
    facts = json.loads((run / "environment.json").read_text())
    facts |= {"dataset_source": "/home/ada/cifar10.npz (npz)", "argv": ["normbench", "--data-dir", "/home/ada/my data"]}
    (run / "environment.json").write_text(json.dumps(facts))
    (run / "error.txt").write_text('  File "/home/ada/x.py", line 3\nC:\\Users\\ada\\y.py\n')
    write_bundle(experiment, tmp_path / "a.nbz", Credit())
    files = contents(tmp_path / "a.nbz")
    texts = b"\n".join(text for name, text in files.items() if not name.endswith((".png", ".pdf", ".diff"))).decode()
    assert ".../cifar10.npz (npz)" in texts
    assert '  File ".../x.py", line 3\n.../y.py' in texts
    for secret in (str(tmp_path), str(Path.home()), "/home/", "ada\\", socket.gethostname(), str(Path.cwd())):
        assert secret not in texts, secret
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in texts


def test_a_config_that_names_a_place_is_not_given_away(experiment: Path, tmp_path: Path) -> None:
    (run,) = experiment.glob("bn-*-s0-*")
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "style: /home/ada/picture.png\n")
    with pytest.raises(RunError, match=r"config\.yaml: names an absolute path|config\.yaml: cannot be read: style"):
        write_bundle(experiment, tmp_path / "a.nbz", Credit())
    assert not (tmp_path / "a.nbz").exists()


def test_what_is_no_bundle_is_not_written_over(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.nbz").write_text("my thesis")
    with pytest.raises(FolderError, match=r"a\.nbz: there is something that is no bundle"):
        write_bundle(trained, tmp_path / "a.nbz", Credit())
    assert (tmp_path / "a.nbz").read_text() == "my thesis"


@pytest.mark.parametrize("state", ["running", "unreadable"])
def test_a_run_that_is_running_or_unreadable_makes_no_bundle(experiment: Path, tmp_path: Path, state: str) -> None:
    (run,) = experiment.glob("bn-*-s0-*")
    if state == "running":
        status = {"state": "running", "started_at": "2026-01-01T00:00:00+00:00", "pid": os.getpid()}
        (run / "status.json").write_text(json.dumps(status))
    else:
        (run / "steps.csv").write_text("step,loss\n7,7\n")
    with pytest.raises(RunError, match=f"bn-.*{'is still running' if state == 'running' else 'steps.csv'}"):
        write_bundle(experiment, tmp_path / "a.nbz", Credit())
    assert not (tmp_path / "a.nbz").exists()


def test_citation_and_zenodo_name_the_people_and_the_result(made: Path) -> None:
    files = contents(made)
    result_id = json.loads(files["bundle.json"])["result_id"]
    cited = yaml.safe_load(files["CITATION.cff"])
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "dataset"
    assert cited["authors"] == [{"family-names": "Lovelace", "given-names": "Ada"}, {"name": "The Example Society"}]
    assert cited["identifiers"][0]["value"] == f"sha256:{result_id}"
    ends = [row["environment.commit"] for row in load_runs(made)]
    assert cited["references"][0].get("commit") == ends[0]
    deposit = json.loads(files[".zenodo.json"])
    assert deposit["creators"] == [{"name": name} for name in AUTHORS]
    assert deposit["upload_type"] == "dataset"
    assert result_id in deposit["description"]


def test_the_crate_is_a_process_run_crate(made: Path) -> None:
    """The requirements of RO-Crate 1.1 and of the profile, from their texts."""
    files = contents(made)
    crate = json.loads(files["ro-crate-metadata.json"])
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"])
    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    parts = {part["@id"] for part in root["hasPart"]}
    assert parts == files.keys() - {"ro-crate-metadata.json", "SHA256SUMS"}
    for name in parts:
        assert entities[name]["@type"] == "File"
        assert int(entities[name]["contentSize"]) == len(files[name])
        assert entities[name]["sha256"] == hashlib.sha256(files[name]).hexdigest()
    actions = [entity for entity in crate["@graph"] if entity["@type"] == "CreateAction"]
    assert [action["@id"] for action in actions] == [mention["@id"] for mention in root["mentions"]]
    assert len(actions) == 6
    for action in actions:
        assert entities[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert {reference["@id"] for reference in (action["object"], *action["result"])} <= parts
        assert action["startTime"] <= action["endTime"]
        assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
        assert entities[action["agent"][0]["@id"]] == {
            "@id": "#Lovelace%2C%20Ada",
            "@type": "Person",
            "name": AUTHORS[0],
        }


def test_a_folders_name_becomes_a_safe_one(tmp_path: Path) -> None:
    assert experiment_name(tmp_path / "runs" / "My runs: ä") == "My_runs_"
    assert experiment_name(Path("/")) == "experiment"
