"""What verifying finds in a bundle that was changed, with and without new checksums; each rule is broken once."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from zipped_bundle import changed, contents

from normbench.bundle.rules import RULES
from normbench.bundle.verify import verify
from normbench.errors import RunError
from normbench.report.page import Report
from normbench.runs.evaluation_file import NUM_BINS, CalibrationBin, Evaluation, TrainImages, pack_hits
from normbench.runs.records import read_experiment
from normbench.runs.writer import RunFolder


def failed(path: Path) -> dict[str, tuple[str, ...]]:
    return {check.name: check.problems for check in verify(path).checks if not check.passed}


def broken(experiment: Path) -> dict[str, list[str]]:
    """Return what each rule finds in a folder, but for the list of records, which only a bundle has."""
    report = Report(read_experiment(experiment))
    found = {name: list(rule(report)) for name, rule in RULES.items() if name != "records"}
    return {name: problems for name, problems in found.items() if problems}


def test_a_good_bundle_is_verified(made: Path) -> None:
    found = verify(made)
    assert [check.problems for check in found.checks] == [()] * len(found.checks)
    assert found.verified
    assert found.num_runs == 6
    assert found.result_id == json.loads(contents(made)["bundle.json"])["result_id"]
    as_json = json.loads(json.dumps(found.as_json()))
    assert as_json["rules"] == "nb-1"
    assert as_json["verified"] is True
    assert {check["name"] for check in as_json["checks"]} >= {"checksums", "tables", "equal seeds", "last epoch"}


def test_a_table_that_was_changed_with_its_checksums_is_found(made: Path, tmp_path: Path) -> None:
    """The figure of a paper: one accuracy, prettier in every table, and all checksums right."""
    files = contents(made)
    name = "tiny/report/table.json"
    table = json.loads(files[name])
    table["tables"][0]["rows"][0]["accuracy"]["mean"] += 1e-6
    path = changed(made, tmp_path / "a.nbz", {name: json.dumps(table).encode()}, with_sums=True)
    assert failed(path).keys() == {"tables"}
    (first, second) = failed(path)["tables"]
    assert first.startswith("tiny/report/table.json: line 1 is not what the records give")
    assert "table.json/tables/0/rows/0/accuracy/mean" in second


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("README.md", b"| BN ", b"| BX "),
        ("tiny/report/report.html", b">Results</h2>", b">Wishes</h2>"),
        ("tiny/report/table.csv", b"bn,", b"gn,"),
        ("tiny/report/table.tex", b"\\midrule", b"\\toprule"),
        ("tiny/report/report.md", b"Result id", b"Some id"),
    ],
)
def test_whatever_people_read_is_made_again_and_compared(
    made: Path, tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    content = contents(made)[name]
    assert old in content
    path = changed(made, tmp_path / "a.nbz", {name: content.replace(old, new)}, with_sums=True)
    assert failed(path).keys() == {"tables"}
    assert name.rpartition("/")[2] in failed(path)["tables"][0]


def test_the_last_digits_of_a_number_may_depend_on_the_machine(made: Path, tmp_path: Path) -> None:
    name = "tiny/report/table.csv"
    table = contents(made)[name].decode()
    number = max(re.findall(r"\d+\.\d{14,}", table), key=len)
    for digits, verified in ((number[:-1] + str((int(number[-1]) + 1) % 10), True), (f"{float(number) + 1e-7}", False)):
        path = changed(made, tmp_path / "a.nbz", {name: table.replace(number, digits).encode()}, with_sums=True)
        assert verify(path).verified == verified


def test_of_another_versions_tables_only_the_numbers_are_compared(made: Path, tmp_path: Path) -> None:
    files = contents(made)
    manifest = json.loads(files["bundle.json"]) | {"source_sha256": "0" * 64}
    worded = files["tiny/report/table.md"].replace(b"Runs: completed of planned", b"Runs: done of planned")
    table = json.loads(files["tiny/report/table.json"])
    table["tables"][0]["caption"] = "in other words"
    changes = {"bundle.json": json.dumps(manifest).encode(), "tiny/report/table.md": worded}
    changes["tiny/report/table.json"] = json.dumps(table).encode()
    found = verify(changed(made, tmp_path / "a.nbz", changes, with_sums=True))
    assert found.verified
    assert any("another NormBench wrote it" in note for note in found.notes)
    table["tables"][0]["rows"][1]["num_parameters"] -= 1
    changes["tiny/report/table.json"] = json.dumps(table).encode()
    found = failed(changed(made, tmp_path / "b.nbz", changes, with_sums=True))
    assert "rows/1/num_parameters" in found["tables"][0]


def test_an_altered_missing_or_added_file_is_named(made: Path, tmp_path: Path) -> None:
    (run,) = {name.split("/")[1] for name in contents(made) if "/gn-" in name and "-s1-" in name}
    name = f"tiny/{run}/steps.csv"
    altered = contents(made)[name].replace(b"2.", b"1.", 1)
    found = failed(changed(made, tmp_path / "a.nbz", {name: altered}, with_sums=False))
    assert name in found["checksums"][0]
    assert "altered" in found["checksums"][0]
    found = failed(changed(made, tmp_path / "d.nbz", {"other/bn/status.json": b"{}"}, with_sums=True))
    assert found == {"archive": ("other/bn/status.json: no part of the experiment tiny",)}
    for changes in ({name: None}, {"tiny/more.txt": b"x"}):
        found = failed(changed(made, tmp_path / "b.nbz", changes, with_sums=False))
        assert found.keys() == {"archive"}
        assert next(iter(changes)) in found["archive"][0]
    found = failed(changed(made, tmp_path / "c.nbz", {name: None}, with_sums=True))
    assert found.keys() == {"steps and epochs", "tables"}  # the pages give another result id


def test_an_id_that_is_not_that_of_the_records_is_told(made: Path, tmp_path: Path) -> None:
    files = contents(made)
    manifest = json.dumps(json.loads(files["bundle.json"]) | {"result_id": "f" * 64}).encode()
    path = changed(made, tmp_path / "a.nbz", {"bundle.json": manifest}, with_sums=False)
    assert "altered" in failed(path)["checksums"][0]
    listed = contents(made)["SHA256SUMS"].decode().splitlines()
    digest = hashlib.sha256(manifest).hexdigest()
    sums = "".join(f"{digest}  bundle.json\n" if line.endswith("  bundle.json") else f"{line}\n" for line in listed)
    changes = {"bundle.json": manifest, "SHA256SUMS": sums.encode()}
    found = failed(changed(made, tmp_path / "b.nbz", changes, with_sums=False))
    assert found.keys() == {"result id"}
    assert "the manifest says ffff" in found["result id"][0]


def edit_json(pattern: str, **values: object) -> Callable[[Path], None]:
    def edit(experiment: Path) -> None:
        (path,) = experiment.glob(pattern)
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def edit_row(column: str, value: float, row: int) -> Callable[[Path], None]:
    def edit(experiment: Path) -> None:
        (path,) = experiment.glob("bn-*-s0-*/metrics.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[row][column] = value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return edit


def edit_config(experiment: Path) -> None:
    (path,) = experiment.glob("bn-*-s0-*/config.yaml")
    config = yaml.safe_load(path.read_text())
    config["train"]["learning_rate"] = 0.5
    path.write_text(yaml.safe_dump(config))


def without_a_run(experiment: Path) -> None:
    (run,) = experiment.glob("gn-*-s2-*")
    (run / "status.json").unlink()


def one_step_less(experiment: Path) -> None:
    (path,) = experiment.glob("bn-*-s0-*/steps.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def another_loss(experiment: Path) -> None:
    (path,) = experiment.glob("bn-*-s0-*/steps.csv")
    lines = path.read_text().splitlines()
    step, loss = lines[2].split(",")
    lines[2] = f"{step},{float(loss) * 1.01:.7g}"
    path.write_text("\n".join(lines) + "\n")


def other_timing(experiment: Path) -> None:
    timing = json.loads((experiment / "timing.json").read_text())
    timing["sessions"][0]["environment"]["device_name"] = "A Faster One"
    (experiment / "timing.json").write_text(json.dumps(timing))


def evaluated(experiment: Path) -> None:
    """An evaluation in which every image is right."""
    (run,) = experiment.glob("bn-*-s0-*")
    bins = [CalibrationBin(num_images=0, confidence=0, accuracy=0)] * (NUM_BINS - 1)
    evaluation = Evaluation(
        split="test", num_images=4, class_names=("a", "b"), confusion=((2, 0), (0, 2)), loss=0.1,
        bins=(*bins, CalibrationBin(num_images=4, confidence=1, accuracy=1)), hits=pack_hits(np.ones(4, bool)),
        train=TrainImages(num_images=4, accuracy=1, loss=0.1),
    )  # fmt: skip
    RunFolder(run).write_evaluation(evaluation)


BN = "bn-*-s0-*"


@pytest.mark.parametrize(
    ("damage", "rule", "problem"),
    [
        (edit_config, "config hashes", "its config is that of bn-"),
        (without_a_run, "equal seeds", "GN: no run of seed 2"),
        (one_step_less, "steps and epochs", "3 steps recorded; its epochs say 4"),
        (edit_json(f"{BN}/summary.json", num_epochs=5), "steps and epochs", "2 epochs recorded, 5 in its result"),
        (edit_json(f"{BN}/summary.json", test_accuracy=0.95), "last epoch", "test_accuracy is 0.95 in its result"),
        (edit_json(f"{BN}/summary.json", epoch_seconds=0.001), "last epoch", "epoch_seconds is 0.001"),
        (edit_row("test_accuracy", 0.99, -1), "last epoch", "its rows give 0.99"),
        (edit_row("train_loss", 0.5, 0), "losses", "the training loss of epoch 1 is 0.5; its steps give"),
        (another_loss, "losses", "the training loss of epoch 1"),
        (evaluated, "evaluations", "test accuracy is 1.0000 in its evaluation and 0."),
        (edit_json(f"{BN}/environment.json", device="cuda"), "devices", "trained on cuda; its config says cpu"),
        (other_timing, "devices", "times of a machine that no run was trained on: cpu, A Faster One"),
        (edit_json(f"{BN}/status.json", state="interrupted", reason="Ctrl-C"), "ended and readable", "Ctrl-C"),
        (lambda folder: next(folder.glob(f"{BN}/environment.json")).unlink(), "devices", "nothing recorded of where"),
    ],
)  # fmt: skip
def test_each_rule_finds_what_breaks_it(
    experiment: Path, damage: Callable[[Path], None], rule: str, problem: str
) -> None:
    assert broken(experiment) == {}
    damage(experiment)
    found = broken(experiment)
    assert rule in found
    assert any(problem in text for text in found[rule]), found[rule]


def test_the_best_epoch_is_not_the_last(experiment: Path) -> None:
    """Reporting the best epoch is the mistake that this rule is there for."""
    (run,) = experiment.glob(BN)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[0]["test_accuracy"], rows[1]["test_accuracy"] = 0.30, 0.10
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit_json(f"{BN}/summary.json", test_accuracy=0.30)(experiment)
    assert broken(experiment)["last epoch"] == [f"{run.name}: test_accuracy is 0.3 in its result; its rows give 0.1"]


def test_an_epochs_loss_is_the_mean_over_images(experiment: Path) -> None:
    """24 images in batches of 16 make a last batch of 8, which the rule is not told."""
    for run in experiment.glob("*-s0-*"):
        losses = np.loadtxt(run / "steps.csv", delimiter=",", skiprows=1)[:, 1].reshape(2, 2)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row, (first, last) in zip(rows, losses, strict=True):
            assert row["train_loss"] == pytest.approx((16 * first + 8 * last) / 24, rel=1e-6)
    assert broken(experiment) == {}
    another_loss(experiment)
    (found,) = broken(experiment)["losses"]
    assert found.startswith(f"{next(experiment.glob(BN)).name}: the training loss of epoch 1 is ")


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a folder; `normbench bundle` makes a file of it"):
        verify(tmp_path)
    with pytest.raises(RunError, match="no such file"):
        verify(tmp_path / "a.nbz")
    (tmp_path / "a.nbz").write_bytes(b"PK\x03\x04")
    assert failed(tmp_path / "a.nbz").keys() == {"archive"}


@pytest.mark.slow
def test_verifying_imports_no_torch(made: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from normbench.bundle.verify import verify; "
        f"assert verify(Path({str(made)!r})).verified; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
