"""The files of a report: what stands in them, that nothing of it is alive, and that it does not change."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from study_folders import HOSTILE, write_run, write_study

from orchestration.journal.run_record import read_run
from orchestration.pages.figures import Line, Panel, panel_svg
from orchestration.pages.page import Table, Verbatim, html_page, markdown_page
from orchestration.report import __main__ as report_command
from orchestration.report.run_report import eval_table, final_table, write_run_report
from orchestration.study.report import ReportError, write_study_report

BAND = b"fill-opacity: 0.15"
PANELS = 10  # curves of one kind of arm
MEANS = 2  # pictures of means with intervals: pass@1 and reward


class Tags(HTMLParser):
    """Counts tags, collects sources of pictures and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.sources: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs), attrs
        if tag in ("td", "th"):
            self.cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, ["softsign", "arctan", "clip"], [0, 1, 2], softsign=0.3)
    write_run(folder / "arctan-seed3", "gate=arctan", "seed=3", rows=5, evaluated=False)
    (folder / "logs").mkdir()
    (folder / "logs" / "arctan-seed3.log").write_text(f"starting\nout of memory {HOSTILE}\n")
    write_study_report(folder)
    return folder


def test_the_table_carries_intervals_and_verdicts(study: Path) -> None:
    cells = Tags((study / "report.html").read_text()).cells
    assert cells[:2] == ["gate", "arithmetic pass@1, %"]
    assert any(re.fullmatch(r"81\.\d ± \d\.\d", cell) for cell in cells), cells[:30]
    assert "softsign − clip" in cells
    assert "separable" in cells
    assert any(re.fullmatch(r"not separable with these seeds, about \d+ more needed", cell) for cell in cells)


def test_every_plot_is_there_and_the_page_needs_nothing_else(study: Path) -> None:
    tags = Tags((study / "report.html").read_text())
    assert tags.count["img"] == PANELS + MEANS
    assert all(source.startswith("data:image/svg+xml;base64,") for source in tags.sources)
    assert not {"script", "link", "iframe", "object"} & tags.count.keys()


def test_an_unfinished_arm_is_named_with_the_end_of_its_log_and_not_counted(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert "left out of every number below: arctan-seed3." in page
    assert "out of memory" in page
    assert not any(row["seed"] == "3" for row in rows_of(study / "iterations.csv"))


def test_markdown_has_the_same_tables(study: Path) -> None:
    lines = (study / "report.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| gate |"))
    assert header.startswith("| gate | arithmetic pass@1, % | reward at the end, points |")
    assert any(re.match(r"\| softsign − clip \| \+\d+\.\d \| .* to .* \| .* \| separable \|", line) for line in lines)
    pictures = re.findall(r"!\[.*\]\((.*)\)", "\n".join(lines))
    assert len(set(pictures)) == PANELS + MEANS
    assert all((study / picture).stat().st_size > 0 for picture in pictures)


def test_throughput_is_told_of_every_arm(study: Path) -> None:
    lines = (study / "report.md").read_text().splitlines()
    place = lines.index("| gate | seed 0 | seed 1 | seed 2 |")
    assert lines[place + 2 : place + 5] == [f"| {gate} | 300 | 301 | 302 |" for gate in ("arctan", "softsign", "clip")]


def test_a_curve_has_a_band_where_seeds_differ() -> None:
    x = np.arange(4.0)
    line = Line(name="erf", style=0, x=x, y=x, low=x, high=x)
    panel = Panel(title="t", unit="u", log=False, lines=(line,))
    banded = replace(panel, lines=(replace(line, low=x - 1.0, high=x + 1.0),))
    assert [BAND in panel_svg(each) for each in (panel, banded)] == [False, True]


def test_csv_has_one_row_an_iteration_and_one_a_pair(study: Path) -> None:
    iterations = rows_of(study / "iterations.csv")
    assert len(iterations) == 3 * 3 * 12
    assert iterations[0]["gate"] == "arctan"
    assert float(iterations[0]["reward/mean"]) == pytest.approx(0.2, abs=0.05)
    assert {row["gate/tau_pos"] for row in iterations if row["gate"] == "clip"} == {""}
    pairs = rows_of(study / "pairs.csv")
    assert len(pairs) == 6 * 3  # measures that are compared, pairs of three gates
    assert {row["separable"] for row in pairs} == {"True", "False"}


def test_the_picture_for_a_readme_is_a_png(study: Path) -> None:
    assert (study / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_writing_the_report_again_changes_no_byte(study: Path) -> None:
    names = ("report.html", "report.md", "iterations.csv", "pairs.csv", "curves.png")
    before = [(study / name).read_bytes() for name in names]
    assert report_command.main([str(study)]) == 0
    assert [(study / name).read_bytes() for name in names] == before


def test_a_study_without_a_finished_arm_has_nothing_to_report(tmp_path: Path) -> None:
    write_run(tmp_path / "clip-seed0", "gate=clip", rows=3, evaluated=False)
    with pytest.raises(ReportError, match="no arm has finished"):
        write_study_report(tmp_path)


def test_a_completion_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    page = write_run_report(write_run(tmp_path / "run", text=HOSTILE)).read_text()
    tags = Tags(page)
    assert "script" not in tags.count
    assert tags.count["img"] == 9, "only our own pictures"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x00" not in page
    assert "default-src 'none'" in page


def test_a_runs_report_has_settings_curves_evaluations_and_its_gate(tmp_path: Path) -> None:
    own = ("gate=custom", "gate.factory=mine:make", "gate.allow_inadmissible=true")
    folder = write_run(tmp_path / "run", *own, "seed=4")
    (folder / "notices.jsonl").write_text('{"iteration": 0, "text": "breaks condition (ii) at ratio 1"}\n' * 2)
    page = write_run_report(folder).read_text()
    assert "gate.allow_inadmissible=true and gate.factory=mine:make" in page
    assert page.count("breaks condition (ii) at ratio 1") == 1
    assert page.index("allow_inadmissible") < page.index("<table>"), "before any number"
    assert "seed: 4" in page
    assert "arithmetic/pass@1, %" in Tags(page).cells
    assert "54.0" in Tags(page).cells


def test_a_reward_of_ones_own_is_in_the_reports_first_and_last_numbers(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path / "run"))
    record = replace(record, rows=tuple({**row, "reward/short": 0.25} for row in record.rows))
    rows = final_table(record).rows
    assert [row[0] for row in rows[:4]] == [
        "reward, points", "format reward, points", "answer reward, points", "short reward, points",
    ]  # fmt: skip
    assert rows[3][1:] == ("0.250", "0.250")


def test_intervals_of_an_evaluation_stand_beside_what_they_bound() -> None:
    table = eval_table({4: {"eval/x/pass@1": 0.5, "eval/x/pass@1_low": 0.4, "eval/x/pass@1_high": 0.61}})
    assert (table.columns, table.rows) == (("iterations trained", "x/pass@1, %"), (("4", "50.0 (40.0 to 61.0)"),))


def test_report_command_names_what_it_cannot_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_command.main([]) == 1
    assert report_command.main([str(tmp_path / "missing")]) == 1
    assert report_command.main([str(tmp_path)]) == 1
    assert [line.partition(": ")[2][:20] for line in capsys.readouterr().err.splitlines()] == [
        "no folder was named;",
        f"{tmp_path / 'missing'}: is not"[:20],
        f"{tmp_path}: holds no"[:20],
    ]
    assert report_command.main(["--help"]) == 0


def test_cells_and_lines_are_escaped() -> None:
    table = Table(columns=("a|b",), rows=(("<b>*x*",),), numeric=frozenset((0,)))
    page = html_page("<t>", [table, Verbatim(text="<v>")])
    assert "<b>" not in page
    assert "<title>&lt;t&gt;</title>" in page
    assert '<td class="number">&lt;b&gt;*x*</td>' in page
    assert markdown_page([table], figure_folder="f") == "| a\\|b |\n| ---: |\n| \\<b\\>\\*x\\* |\n"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
