"""The pages of reports in a real browser: plots that show something, tables that fit, nothing from elsewhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser
from study_folders import HOSTILE, write_run, write_study

from orchestration.report.run_report import write_run_report
from orchestration.study.report import write_study_report

PROGRAM = find_browser()
# CI must look at the page; elsewhere a machine without a browser leaves the look out.
pytestmark = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("CI") != "true", reason="no Chromium on this machine: apt-get install chromium"
)
NUM_CURVES = 9  # of a run's page; a picture of where time goes needs a trace
GATES = ("sigmoid", "erf", "arctan", "softsign", "clip")
IMAGES = "[...document.images].map(i => [i.alt, i.naturalWidth, i.naturalHeight, i.getBoundingClientRect().width])"
PAGE_WIDTH = "document.documentElement.scrollWidth"
# The share of a picture's points that are not white, after drawing it to a canvas.
INK = """(async () => { const shares = []; for (const image of document.images) {
  const canvas = Object.assign(document.createElement('canvas'), {width: 300, height: 200});
  const context = canvas.getContext('2d'); context.fillStyle = 'white'; context.fillRect(0, 0, 300, 200);
  context.drawImage(image, 0, 0, 300, 200); const data = context.getImageData(0, 0, 300, 200).data; let dark = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] + data[i + 1] + data[i + 2] < 720) dark++;
  shares.push(dark / 60000); } return shares; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None, "CI=true: Chromium must be installed"
    with Browser(PROGRAM, profile=tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, GATES, [0, 1, 2], softsign=0.3, erf=0.29)
    return write_study_report(folder)[0]


def test_all_plots_of_a_study_show_something(browser: Browser, study_page: Path) -> None:
    browser.resize(1200, 900)
    browser.open(study_page)
    images = browser.evaluate(IMAGES)
    names = " ".join(alt for alt, *_ in images)
    for plot in ("pass@1", "Reward", "Format reward", "entropy", "EUR, advantage > 0", "EUR, advantage ≤ 0", "length"):
        assert plot in names
    for plot in ("Answer reward", "Variance of the ratio", "Gradient norm", "Temperature"):
        assert plot in names
    for alt, width, height, shown in images:
        assert min(width, height) > 50, alt
        assert shown > 200, alt
    assert len(images) == 12
    assert min(browser.evaluate(INK)) > 0.01, "a plot is blank"


def test_the_table_carries_intervals_and_verdicts(browser: Browser, study_page: Path) -> None:
    browser.open(study_page)
    rows = browser.evaluate(
        "[...document.querySelector('table').rows].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    assert [row[0] for row in rows] == ["gate", "before training", *GATES]
    assert all(" ± " in row[1] for row in rows[2:])
    right = "getComputedStyle(document.querySelector('table td:nth-child(2)')).textAlign"
    assert browser.evaluate(right) == "right"
    text = browser.evaluate("document.body.innerText")
    assert "softsign − clip" in text
    assert "more needed" in text
    verdicts = browser.evaluate("[...document.querySelectorAll('td:last-child')].map(cell => cell.textContent)")
    assert "separable" in verdicts


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser, study_page: Path, dark: bool) -> None:
    browser.resize(390, 800, dark=dark)
    browser.open(study_page)
    assert browser.evaluate(PAGE_WIDTH) <= 390
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
    assert browser.screenshot()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_completion_does_nothing_in_a_runs_page(browser: Browser, tmp_path: Path) -> None:
    page = write_run_report(write_run(tmp_path / "run", text=HOSTILE))
    browser.resize(390, 800)
    browser.open(page)
    assert browser.evaluate("document.scripts.length") == 0
    assert (
        browser.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert len(browser.evaluate(IMAGES)) == NUM_CURVES
    assert min(width for _, width, *_ in browser.evaluate(IMAGES)) > 50
    assert "<script>alert(1)</script>" in browser.evaluate("document.body.textContent"), "shown as text"
    assert browser.evaluate(PAGE_WIDTH) <= 390
