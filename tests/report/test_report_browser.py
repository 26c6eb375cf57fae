"""The HTML report in a real browser: it renders, logs nothing, asks for nothing, and follows light and dark."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.image import imread

from normbench.report.html import report_to_html
from normbench.report.page import Report
from normbench.runs.records import read_experiment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


class Visit(NamedTuple):
    console: list[str]
    requests: list[str]
    pixels: np.ndarray


def visit(file: Path, *, dark: bool = False) -> Visit:
    """Open a file, and return console lines, what the page asked for, and a screenshot ``(height, width, rgb)``."""
    folder = file.parent / f"{file.stem}-{dark}"
    picture, log = folder / "page.png", folder / "net.json"
    folder.mkdir()
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            f"--screenshot={picture}",
            "--window-size=1100,1400",
            file.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=90,
    )
    console = [line for line in result.stderr.splitlines() if ":CONSOLE:" in line]
    events = [event.get("params") or {} for event in json.loads(log.read_text())["events"]]
    # what the browser asks for of its own accord has no origin
    requests = [
        event["url"]
        for event in events
        if "url" in event and event.get("initiator", "not an origin") != "not an origin"
    ]
    return Visit(console, [url for url in requests if not url.startswith("file:")], imread(picture)[..., :3])


def test_the_report_renders_in_light_and_dark_without_errors_or_requests(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    for norm in ("bn", "gn"):
        for seed in range(3):
            new_run(tmp_path / "runs", norm, seed, steps_per_epoch=50)
    html = report_to_html(Report(read_experiment(tmp_path / "runs")))
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    light, dark = visit(file), visit(file, dark=True)
    for seen in (light, dark):
        assert (seen.console, seen.requests) == ([], [])
    assert light.pixels[0, 0].min() > 0.95
    assert dark.pixels[0, 0].max() < 0.15
    blue = np.array([0x00, 0x72, 0xB2]) / 255  # bn's curve, well below the tables
    assert (np.abs(light.pixels[500:] - blue).max(axis=2) < 0.02).sum() > 200

    # the same page with a reference and a script let in: this test would see both
    policy = html[html.index('<meta http-equiv="Content') :].partition(">")[0] + ">"
    leaking = html.replace(policy, "").replace(
        "<main>", '<main><img src="http://127.0.0.1:9/x.png"><script>nope()</script>'
    )
    file = tmp_path / "leaking.html"
    file.write_text(leaking, encoding="utf-8")
    caught = visit(file)
    assert caught.requests == ["http://127.0.0.1:9/x.png"]
    assert any("nope is not defined" in line for line in caught.console)
