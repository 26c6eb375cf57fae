"""Pages of results are what the records beside them say, and no number is typed."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from tests.report.conftest import make_run, make_settings
from tests.report.test_report_batch_one import new_probe
from tests.report.test_report_evaluations import evaluation, write_evaluated_run
from tests.report.test_report_style import record, style_run
from tests.report.test_report_tuning import tuning

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
sys.path.insert(0, str(ROOT / "docs"))
from results_pages import fill, overview, records_of, typed_numbers  # noqa: E402
from results_speed import norms, speed  # noqa: E402
from results_tables import against, batch_one  # noqa: E402

from normbench.advice.evidence import EVIDENCE  # noqa: E402
from normbench.bundle.description import Credit  # noqa: E402
from normbench.bundle.write import write_bundle  # noqa: E402
from normbench.report.page import Report  # noqa: E402
from normbench.runs.records import read_experiment  # noqa: E402
from normbench.runs.tuning_file import Trial, Tuning, write_tuning  # noqa: E402


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def numbers_in(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_made_of_its_records_or_says_that_it_has_none(page: Path) -> None:
    text = text_of(page)
    if not records_of(page, text):
        assert "records were not kept" in text
        return
    assert fill(page, text) == text, "run: make results"
    assert typed_numbers(page, text) == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "README.zh-CN.md"], ids=lambda page: page.stem)
def test_every_result_of_the_readme_stands_on_a_page_of_results(page: Path) -> None:
    assert fill(page, text_of(page)) == text_of(page), "run: make results"
    results = re.search(r"^## (?:Results|结果)\n(.*?)(?=^## )", text_of(page), re.DOTALL | re.M)
    assert results is not None
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", results[1], flags=re.DOTALL)
    sources = [*PAGES, ROOT / "docs" / "performance.md", ROOT / "docs" / "transformer.md", ROOT / "docs" / "style.md"]
    known = set().union(*(numbers_in(text_of(source)) for source in sources))
    decimals = {float(found) for found in re.findall(r"\d+\.\d+", re.sub(r"\d+\.\d+\.\d+|v?\d+\.\d+ M", " ", prose))}
    assert decimals, "a test of nothing"
    assert decimals <= known


@pytest.mark.parametrize("key", [key for key in EVIDENCE if key.startswith("own_")])
def test_every_result_of_our_own_that_advise_quotes_stands_on_its_page(key: str) -> None:
    quoted, source = EVIDENCE[key].text, ROOT / EVIDENCE[key].source
    decimals = {float(found) for found in re.findall(r"\d+\.\d+", quoted)}
    assert decimals, "a test of nothing"
    assert decimals <= numbers_in(text_of(source))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page beside the bundle of a small comparison, not filled yet."""
    folder = tmp_path_factory.mktemp("results")
    runs = folder / "small"
    make_settings(runs, ["bn", "gn"], [0, 1, 2])
    write_tuning(runs, tuning({"bn": 1, "gn": 3}))
    for seed in range(3):
        more = {"epochs": 2, "steps_per_epoch": 3}
        make_run(runs, "bn", seed, accuracy=0.7213 + 0.0001 * seed, train={"learning_rate": 1e-3}, **more)  # type: ignore[arg-type]
        for rate in (1e-3, 1e-2):
            accuracy = 0.7011 + 3 * rate + 0.0002 * seed
            name = f"gn-{rate}-{seed}"
            make_run(runs, "gn", seed, accuracy=accuracy, train={"learning_rate": rate}, folder_name=name, **more)  # type: ignore[arg-type]
    write_bundle(runs, folder / "small.nbz", Credit())
    page = folder / "small.md"
    page.write_text(
        "# Small\n\n<!-- small.nbz: answer 2 --><!-- end -->\n\n<!-- small.nbz: table -->\n<!-- end -->\n\n"
        "GN came to <!-- small.nbz: cell 2 gn, test accuracy (%) -->?<!-- end --> % on CIFAR-10 in 2 epochs (2020).\n"
    )
    return page


def test_a_page_is_filled_and_stays_as_it_is(page: Path) -> None:
    filled = fill(page, text_of(page))
    assert "| **bn** |" in filled or "| bn " in filled
    assert re.search(r"GN came to <!-- [^>]*-->73\.13 ± 0\.05<!-- end --> %", filled)
    assert "gn is best with 73.13" in filled
    assert fill(page, filled) == filled


def test_a_typed_number_is_found(page: Path) -> None:
    filled = fill(page, text_of(page))
    assert typed_numbers(page, filled) == []
    assert typed_numbers(page, filled + "\nLN reaches 71.77 % with `--lr 0.77`.\n") == ["71.77"]
    changed = filled.replace("73.13 ± 0.05<", "74.13 ± 0.05<")
    assert fill(page, changed) == filled != changed


def test_the_overview_has_both_rates(page: Path) -> None:
    lines = overview(Report(read_experiment(page.with_suffix("")))).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:6]] == [
        "norm", "test accuracy (%)", "learning rate", "rank", "at 0.001 for all"
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[2].split("|")[1:6]] == ["gn", "73.13 ± 0.05", "0.01", "1", "70.43 ± 0.05"]
    assert len(overview(Report(read_experiment(page.with_suffix(""))), labels=["bn"]).splitlines()) == 3


def test_the_overview_has_a_column_of_another_network(page: Path) -> None:
    report = Report(read_experiment(page.with_suffix("")))
    lines = [[cell.strip() for cell in line.split("|")] for line in overview(report, [report]).splitlines()]
    network = dict(report.parts[0].measured)["model"]
    assert (lines[0][-2], lines[2][1], lines[2][-2]) == (f"in {network} (%)", "gn", "73.13 ± 0.05")


def test_one_experiment_against_another_is_paired_by_seed(page: Path) -> None:
    """bn differs by 0.02 to 0.04 points from its own run of each seed, gn by 2 points."""
    other = page.parent / "other"
    make_settings(other, ["bn", "gn"], [0, 1, 2])
    for seed in range(3):
        more = {"epochs": 2, "steps_per_epoch": 3, "train": {"learning_rate": 1e-3}}
        make_run(other, "bn", seed, accuracy=0.7213 + 0.0001 * seed - 0.0002 - 0.0001 * (seed == 2), **more)  # type: ignore[arg-type]
        make_run(other, "gn", seed, accuracy=0.7241 + 0.0003 * seed, **more)  # type: ignore[arg-type]
    write_bundle(other, page.parent / "other.nbz", Credit())
    text = "<!-- small.nbz: against other.nbz -->\n\n<!-- end -->"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in fill(page, text).splitlines() if "|" in line]
    assert rows[0][:3] == ["norm", "small (%)", "other (%)"]
    assert [(row[0], row[3], row[4], row[-1]) for row in rows[2:]] == [
        ("bn", "+0.02 ± 0.01", "3", "higher"), ("gn", "-2.01 ± 0.02", "3", "lower"),
        ("mean of the norms", "-0.99 ± 0.01", "3", "lower"),
    ]  # fmt: skip
    assert records_of(page, text) == [page.parent / "small.nbz", page.parent / "other.nbz"]


PRECISIONS = ("bf16", "fp32")


def precisions(folder: Path, differences: dict[str, list[float]], commits: tuple[str, str]) -> list[Report]:
    """Return reports of the same norms and seeds in two precisions, whose accuracies differ by so many points."""
    found = []
    for precision, commit in zip(PRECISIONS, commits, strict=True):
        runs = folder / precision
        make_settings(runs, list(differences), list(range(6)))
        for norm, points in differences.items():
            for seed, point in enumerate(points):
                accuracy = 0.70 + 0.003 * seed + (point / 100 if precision == "bf16" else 0)
                run = {"accuracy": accuracy, "epochs": 1, "steps_per_epoch": 3, "train": {"precision": precision}}
                make_run(runs, norm, seed, environment={"precision": precision, "commit": commit}, **run)  # type: ignore[arg-type]
        found.append(Report(read_experiment(runs)))
    return found


def test_precisions_are_equivalent_by_two_one_sided_tests_of_each_norm(tmp_path: Path) -> None:
    """bn's differences lie within half a point for certain, gn's are as small on average but scatter."""
    differences = {"bn": [0.3, -0.2, 0.1, -0.1, 0.3, -0.2], "gn": [1.0, -0.9, 0.8, -1.1, 0.4, 0.0]}
    lines = against(*precisions(tmp_path, differences, ("0123abc", "0123abc"))).splitlines()
    rows = {row[0]: row for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5])}
    differences["mean of the norms"] = [statistics.fmean(pair) for pair in zip(*differences.values(), strict=True)]
    larger = {}
    for norm, points in differences.items():
        sides = [ttest_1samp(points, -0.5, alternative="greater"), ttest_1samp(points, 0.5, alternative="less")]
        larger[norm] = max(side.pvalue for side in sides)
    for num_left, norm in zip((3, 2, 1), sorted(larger, key=lambda norm: larger[norm]), strict=True):  # Holm's steps
        assert float(rows[norm][6]) == pytest.approx(num_left * larger[norm], abs=6e-5 if larger[norm] < 0.03 else 6e-4)
        assert rows[norm][3].startswith(f"{statistics.fmean(differences[norm]):+.2f} ± ")
    assert rows["bn"][-1] == "equivalent (±0.5)"
    assert rows["gn"][-1].startswith("not resolved (~")
    assert lines[-1].endswith("differ between bf16 and fp32: precision (bf16 and fp32). Both are of commit 0123abc.")


def test_two_commits_are_named_as_a_difference(tmp_path: Path) -> None:
    (*_, last) = against(*precisions(tmp_path, {"bn": [0.1, 0.2, 0.3]}, ("0123abc", "4567def"))).splitlines()
    assert last.endswith("differ between bf16 and fp32: precision (bf16 and fp32); commit (0123abc and 4567def).")


def test_claims_are_held_against_records_as_one_family(page: Path) -> None:
    """In points: bn 72.14, gn 70.43 at 0.001 and 73.13 at its own rate; all spreads are tiny."""
    (page.parent / "claims.yaml").write_text(
        """
- {claim: BN beats GN, source: a, higher: bn, than: gn, records: [small.nbz, small.nbz 2]}
- {claim: BN is as good as itself, source: b, equal: [bn, bn], records: [small.nbz]}
- {claim: GN reaches 73 %, source: c, norm: gn, reaches: 73, records: [small.nbz 2, small.nbz]}
- {claim: LN is best, source: d, untested: needs 5 runs}
"""
    )
    filled = fill(page, "<!-- small.nbz: claims claims.yaml -->\n\n<!-- end -->")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in filled.splitlines() if "|" in line][2:]
    assert [(row[2], row[5]) for row in rows] == [
        ("small", "confirmed"), ("small, table 2", "refuted"), ("small", "not resolved"),
        ("small, table 2", "confirmed"), ("small", "refuted"), ("-", "not tested fairly")
    ]  # fmt: skip
    assert rows[0][3] == "+1.71 ± 0.02 points"


def test_claims_and_tests_are_of_any_measure(tmp_path: Path) -> None:
    """The style losses are twice the levels, the changes of contrast 0.6 of them; less is better in both."""
    runs = tmp_path / "styles"
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        record(runs, style_run("in", seed), 0.2 + shift)
        record(runs, style_run("bn", seed), 0.5 + 3 * shift)
    write_bundle(runs, tmp_path / "styles.nbz", Credit())
    page, claims = tmp_path / "styles.md", tmp_path / "claims.yaml"
    claims.write_text(
        """
- {claim: IN is lower, source: a, measure: style_loss, lower: IN, than: BN, records: [styles.nbz]}
- {claim: BN is lower, source: b, measure: contrast_change, lower: BN, than: IN, records: [styles.nbz]}
- {claim: BN is higher, source: c, higher: BN, than: IN, records: [styles.nbz]}
- {claim: IN is as good as itself, source: d, equal: [IN, IN], records: [styles.nbz]}
"""
    )
    filled = fill(page, "<!-- styles.nbz: claims claims.yaml -->\n\n<!-- end -->")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in filled.splitlines() if "|" in line][2:]
    assert [(row[3], row[5]) for row in rows] == [
        ("-0.6000 ± 0.0994", "confirmed"), ("+18.0 ± 3.0 points", "refuted"), ("+0.3000 ± 0.0497", "confirmed"),
        ("+0.0000 ± 0.0000", "not resolved"),
    ]  # fmt: skip
    assert "-0.6000 ± 0.0994" in fill(page, "<!-- styles.nbz: tests style_loss -->\n\n<!-- end -->")
    assert "-0.3000 ± 0.0497" in fill(page, "<!-- styles.nbz: tests -->\n\n<!-- end -->")
    claims.write_text("- {claim: IN, source: a, measure: size, lower: IN, than: BN, records: [styles.nbz]}")
    with pytest.raises(ValueError, match="the measures are content_loss"):
        fill(page, "<!-- styles.nbz: claims claims.yaml -->\n\n<!-- end -->")


def test_chapters_and_grids_are_taken_over(page: Path) -> None:
    filled = fill(page, "<!-- small.nbz: chapter tuning -->\n\n<!-- end -->")
    assert "Each norm was tried at the same" in filled
    assert "![Expected best against budget](small/tuning_budget.png)" in filled
    grid = fill(page, "<!-- small.nbz: grid Mean accuracy (%) by learning rate -->\n\n<!-- end -->")
    assert grid.splitlines()[2].split("|")[1].strip() == "norm"


@pytest.mark.parametrize(
    "what", ["table 9", "tests size", "cell 1 gn, size", "colour", "figure nothing", "chapter nothing", "grid nothing"]
)
def test_what_is_not_there_is_said(page: Path, what: str) -> None:
    with pytest.raises(ValueError, match=r"small\.md"):
        fill(page, f"<!-- small.nbz: {what} --><!-- end -->")


def test_runs_are_held_against_airbench_and_a_goal(tmp_path: Path) -> None:
    """bn's runs against three others, and a goal between its accuracy with views, which is half, and without."""
    folder = tmp_path / "fast"
    for seed in range(3):
        write_evaluated_run(folder, "bn", seed, train_seconds=3.0 + seed)
    record = tmp_path / "other.json"
    others = [
        {"plain": 0.5 + 0.1 * k, "tta": 0.6 + 0.1 * k, "seconds": seconds} for k, seconds in enumerate((4, 5, 16))
    ]
    record.write_text(json.dumps({"goal": {"accuracy": 0.6, "seconds": 2.5, "seeds": 3}, "runs": others}))
    accuracy = statistics.fmean(evaluation("bn", seed).accuracy for seed in range(3))
    assert accuracy / 2 < 0.6 < accuracy
    grid, goal = speed(Report(read_experiment(folder)), record).split("\n\n")
    ours, theirs = ([cell.strip() for cell in line.split("|")[2:-1]] for line in grid.splitlines()[2:])
    assert [ours[0], *ours[3:]] == ["3", "4.00", "3.00 to 5.00", "0.80"]
    assert [theirs[0], *theirs[3:]] == ["3", "5.00", "4.00 to 16.00", "1.00"]
    assert ours[1].startswith(f"{100 * accuracy:.2f} ± ")
    assert ours[2].startswith(f"{50 * accuracy:.2f} ± ")
    assert [cell.split(" ")[0] for cell in theirs[1:3]] == ["60.00", "70.00"]
    assert f"{100 * accuracy - 60:.2f} points above, met, with the images alone" in goal
    assert f"{60 - 50 * accuracy:.2f} points below, missed, with six views" in goal
    assert goal.endswith("the median time is 4.00 s, 1.50 s more, missed.")


def test_norms_of_the_speed_run_stand_at_their_own_rates_with_the_seconds_of_all_epochs(tmp_path: Path) -> None:
    """bn and gn at the rate of the test runs, which is between two that were tried with bn, and the lowest with gn."""
    folder = tmp_path / "fast"
    for norm in ("bn", "gn"):
        for seed in range(3):
            write_evaluated_run(folder, norm, seed)
    runs = read_experiment(folder).runs
    rate = runs[0].config.train.learning_rate
    tried = {run.config.label: run.config.norm.name == "bn" for run in runs}
    trials = [
        Trial(label=label, learning_rate=factor * rate, accuracies=(0.9 - abs(factor - 1) / 10,))
        for label, is_inside in tried.items()
        for factor in ((0.5, 1, 2) if is_inside else (1, 2))
    ]
    write_tuning(folder, Tuning(experiment="fast-tune", seeds=(10_000,), trials=tuple(trials)))
    accuracy = {norm: statistics.fmean(evaluation(norm, seed).accuracy for seed in range(3)) for norm in ("bn", "gn")}
    goal = (accuracy["bn"] + accuracy["gn"]) / 2
    record = tmp_path / "goal.json"
    record.write_text(json.dumps({"goal": {"accuracy": goal}}))
    grid, reached = norms(Report(read_experiment(folder)), record).split("\n\n")
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in grid.splitlines()[2:])
    assert [first[0], first[1], first[3], first[4]] == ["BN", f"{rate:.3g}", "-", "baseline"]
    assert [second[0], second[1]] == ["GN", f"{rate:.3g} (lowest tried)"]
    assert (first[6].split()[0], second[6]) == (f"{50 * accuracy['bn']:.2f}", "-"), "only bn's runs have views"
    seconds = [run.epochs[1].train_seconds for run in runs if run.config.label == "BN"]
    assert float(first[7]) == pytest.approx(runs[0].config.train.epochs * statistics.median(seconds), abs=0.005)
    assert reached == f"With a mean of {100 * goal:.1f} % or more: with the images alone BN; with six views none."


def test_norms_at_batch_size_1_stand_beside_the_comparison_and_none(tmp_path: Path) -> None:
    """In points over chance ln gains 20, none 15, bn 4; the lines are at 16 and 10, and seeds differ by 0.2."""
    make_settings(tmp_path, ["bn", "ln"], [0, 1, 2])
    for seed in range(3):
        for norm, accuracy in {"bn": 0.7, "ln": 0.6}.items():
            make_run(tmp_path, norm, seed, accuracy=accuracy, epochs=1, steps_per_epoch=2)
        for norm, accuracy in {"bn": 0.14, "ln": 0.30, "none": 0.25}.items():
            new_probe(make_run, tmp_path, norm, seed, accuracy + 0.002 * (seed - 1))
    grid, sentence = batch_one(Report(read_experiment(tmp_path))).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in grid.splitlines()[2:]]
    assert [[row[0], row[3], row[4], row[5]] for row in rows] == [
        ["ln", "100", "stable", "60.00 ± 0.00"],
        ["none", "75", "degraded", "-"],
        ["bn", "20", "collapsed", "70.00 ± 0.00"],
    ]
    assert [row[1].split()[0] for row in rows] == ["30.00", "25.00", "14.00"]
    assert [row[2].split()[0] for row in rows] == ["35.00", "30.00", "19.00"], "each image's own statistics: 5 more"
    assert sentence.startswith("Resolved: stable ln; degraded none; collapsed bn. Near a line")
    assert sentence.endswith(": none.")
