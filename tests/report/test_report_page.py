from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from normbench.report import write_report_of
from normbench.report.answers import answers
from normbench.report.captions import FIRST_RUN_MEMORY, FRESH_SEEDS
from normbench.report.columns import format_verdict
from normbench.report.drawing import Draw
from normbench.report.html import report_to_html
from normbench.report.markdown import report_to_markdown
from normbench.report.page import Report
from normbench.runs.records import read_experiment
from normbench.tasks.classification import TEST_ACCURACY

NewRun = Callable[..., Path]
HOSTILE = '<script>alert(1)</script>"onload=x'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, new_run: NewRun, new_settings: Callable[..., None]) -> Report:
    """Three norms over two batch sizes; a hostile label, a diverged run."""
    folder = tmp_path_factory.mktemp("page") / "sweep & <more>"
    new_settings(folder, ["bn", "gn", "in"], [0, 1, 2])
    for batch_size in (16, 128):
        for seed in range(3):
            train = {"batch_size": batch_size}
            new_run(folder, "bn", seed, train=train, steps_per_epoch=30)
            new_run(folder, "gn", seed, train=train, steps_per_epoch=30, label=HOSTILE)
    new_run(folder, "in", 0, state="diverged", reason=HOSTILE, diverge_at=40, train={"batch_size": 16})
    return Report(read_experiment(folder))


@pytest.fixture(scope="module")
def html(page: Report) -> str:
    return report_to_html(page)


class Outline(HTMLParser):
    """Tags, ids and references of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), "an event handler"
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.references.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_self_contained_and_escaped(html: str) -> None:
    outline = Outline(html)
    assert all(reference.startswith("#") for reference in outline.references)
    assert {reference[1:] for reference in outline.references} <= set(outline.ids)
    assert len(set(outline.ids)) == len(outline.ids)
    assert not {"script", "link", "iframe", "object", "img", "base", "form"} & set(outline.tags)
    assert not re.search(r"@import|url\((?!#)", html)
    assert outline.tags.count("svg") == 5
    assert HOSTILE in outline.text


def test_html_and_markdown_hold_the_same_content(page: Report, html: str) -> None:
    text = " ".join(Outline(html).text.split())
    markdown = report_to_markdown(page)
    plain = " ".join(re.sub(r"\\(.)", r"\1", markdown).split())
    for heading in re.findall(r"^## (.*)$", markdown, flags=re.MULTILINE):
        assert heading in text
    for part in page.parts:
        for said in (*part.answers, *part.table.failures, part.unfinished, part.table.caption, part.table.cost_caption):
            assert said in text
            assert said in plain
        for row in part.table.rows:
            assert row.runs in text
            assert f"{row.runs} |" in plain
        for name, value in part.measured:
            assert name in text
            assert f"{name}: {value}" in plain
    assert [figure.name for figure in page.figures] == [
        "batch_size",
        "forest",
        "loss_curves",
        "accuracy",
        "accuracy_time",
    ]


def test_the_contents_lead_to_every_heading_in_its_order(html: str) -> None:
    contents = re.search(r"<nav.*?</nav>", html, re.DOTALL)[0]
    links = re.findall(r'<a href="#([^"]+)">(.*?)</a>', contents)
    assert links == re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', html)
    assert [title for _, title in links[:3]] == [
        "Test error against batch size",
        "Differences in every setting",
        "Results",
    ]
    assert "Why" not in dict(links).values(), "nothing of it was measured"


def test_how_it_was_measured(page: Report) -> None:
    (part,) = page.parts
    facts = dict(part.measured)
    assert facts["seeds"] == "0, 1, 2"
    assert facts["differs between rows"] == "batch size"
    assert (facts["torch"], facts["commit"], facts["device name"]) == ("2.11.0", "0123abc", "NVIDIA H100 80GB HBM3")
    assert facts["learning rate"] == "0.001"
    assert part.unfinished == "3 of 15 runs have no result: 1 diverged, 2 not started."


def answer(folder: Path) -> str:
    (table,) = Report(read_experiment(folder)).tables
    (said,) = answers(table)
    return said


def test_answers_say_what_is_resolved_and_what_is_not(tmp_path: Path, new_run: NewRun) -> None:
    for seed, noise in enumerate((0.0, 0.002, -0.002)):
        new_run(tmp_path / "clear", "bn", seed, accuracy=0.80 + noise)
        new_run(tmp_path / "clear", "gn", seed, accuracy=0.70 - noise)
        new_run(tmp_path / "close", "bn", seed, accuracy=0.70 + 4 * noise)
        new_run(tmp_path / "close", "gn", seed, accuracy=0.701 - 2 * noise)
        new_run(tmp_path / "uneven", "bn", seed)
    new_run(tmp_path / "uneven", "gn", 0)
    new_run(tmp_path / "single", "bn", 0, accuracy=0.8)
    new_run(tmp_path / "single", "gn", 0, accuracy=0.7)
    new_run(tmp_path / "nothing", "bn", 0, state="failed", reason="out of memory")
    assert answer(tmp_path / "clear").startswith(
        "under this protocol, with one learning rate for all norms (0.001), bn is best with 80.00 ± 0.50 % (n=3), "
        "resolved against the others "
    )
    assert answer(tmp_path / "clear").endswith("Against bn: gn worse.")
    assert "which norm is best is not resolved; gn has the highest mean" in answer(tmp_path / "close")
    assert re.search(
        r"gn not resolved \(to tell, plan a fresh comparison with about \d+ seeds\)", answer(tmp_path / "close")
    )
    assert "a verdict takes at least 3 seeds of each" in answer(tmp_path / "single")
    assert "±" not in answer(tmp_path / "single")
    assert "a verdict takes at least 3 seeds of each" in answer(tmp_path / "uneven")
    assert answer(tmp_path / "nothing") == "no run has completed."


def test_the_answer_says_whether_norms_shared_a_learning_rate(tmp_path: Path, new_run: NewRun) -> None:
    norms = [{"name": "bn", "train": {"lr": 0.2}}, {"name": "ln", "train": {"lr": 0.05}}]
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"norms": norms, "seeds": [0, 1, 2]}))
    for seed, noise in enumerate((0.0, 0.002, -0.002)):
        new_run(tmp_path, "bn", seed, accuracy=0.80 + noise, train={"learning_rate": 0.2})
        new_run(tmp_path, "ln", seed, accuracy=0.70 - noise, train={"learning_rate": 0.05})
    assert answer(tmp_path).startswith("under this protocol, with learning rates set by norm (0.05 to 0.2), bn is best")


def test_an_open_verdict_asks_for_fresh_seeds_and_says_why(tmp_path: Path, new_run: NewRun) -> None:
    for seed, noise in enumerate((0.0, 0.002, -0.002)):
        new_run(tmp_path / "open", "bn", seed, accuracy=0.70 + 4 * noise)
        new_run(tmp_path / "open", "gn", seed, accuracy=0.701 - 2 * noise)
        new_run(tmp_path / "clear", "bn", seed, accuracy=0.80 + noise)
        new_run(tmp_path / "clear", "gn", seed, accuracy=0.70 - noise)
    (still_open,), (clear,) = (Report(read_experiment(tmp_path / name)).tables for name in ("open", "clear"))
    verdicts = [format_verdict(row, TEST_ACCURACY, still_open) for row in still_open.rows]
    assert any(re.fullmatch(r"not resolved \(~\d+ fresh seeds\)", verdict) for verdict in verdicts)
    assert FRESH_SEEDS in still_open.caption
    assert FRESH_SEEDS not in clear.caption


def test_peak_memory_of_the_first_version_comes_with_its_warning_on_a_gpu_only(tmp_path: Path, new_run: NewRun) -> None:
    for name, device, version in (("old", "cuda", "0.1.0"), ("new", "cuda", "0.2.0"), ("cpu", "cpu", "0.1.0")):
        new_run(tmp_path / name, "bn", 0, device=device, environment={"normbench": version})
    old, new, cpu = (Report(read_experiment(tmp_path / name)).tables[0].cost_caption for name in ("old", "new", "cpu"))
    assert old.endswith(f"Peak memory: the largest of the runs. {FIRST_RUN_MEMORY}")
    assert FIRST_RUN_MEMORY not in new
    assert FIRST_RUN_MEMORY not in cpu


def test_a_page_can_be_made_of_nothing_but_failures(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, state="failed", reason="out of memory", epochs_done=0, environment={})
    page = Report(read_experiment(tmp_path))
    assert "out of memory" in report_to_html(page)
    assert "out of memory" in report_to_markdown(page)


def test_runs_of_a_grid_that_never_began_are_counted(tmp_path: Path, new_run: NewRun, new_settings) -> None:
    new_settings(tmp_path, ["bn", "gn"], [0, 1], grid={"train.batch_size": [16, 32, 64]})
    for norm in ("bn", "gn"):
        new_run(tmp_path, norm, 0, train={"batch_size": 16}, steps_per_epoch=20)
    (part,) = Report(read_experiment(tmp_path)).parts
    assert part.unfinished == "10 of 12 runs have no result: 10 not started."


def test_every_run_has_its_own_result_and_a_link_to_its_folder(
    tmp_path: Path, new_run: NewRun, new_settings, draw_nothing: Draw
) -> None:
    folders = [
        new_run(
            tmp_path, "bn", seed, accuracy=0.7 + 0.01 * seed, environment={"argv": ["normbench", "compare", "x y.yaml"]}
        )
        for seed in (0, 2)
    ]
    folders.append(new_run(tmp_path, "gn", 2, state="failed", reason="disk full"))
    new_settings(tmp_path, ["bn", "gn"], [0, 2])
    report = Report(read_experiment(tmp_path))
    paths = {path.name: path for path in write_report_of(report, draw=draw_nothing)}
    html = paths["report.html"].read_text()
    for folder, text in zip(folders, ("70.00", "72.00", "failed"), strict=True):
        (href,) = re.findall(rf'<a href="([^"]+)">{text}</a>', html)
        assert (paths["report.html"].parent / href).resolve() == folder.resolve()
    assert "normbench compare &#39;x y.yaml&#39;" in html
    config = re.search(r"<pre>(norms:.*?)</pre>", html, re.DOTALL)[1]
    assert yaml.safe_load(config)["seeds"] == [0, 2]
    elsewhere = write_report_of(report, tmp_path / "elsewhere", draw_nothing)
    assert not re.search('<a href="[^#]', elsewhere[0].read_text()), "links would lead nowhere"
