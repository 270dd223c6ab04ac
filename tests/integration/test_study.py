"""The study command on real parts: interrupted and resumed, it gives the table of an undisturbed study."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import COMMAND_TIMEOUT_S, PROJECT_ROOT, SMALL, await_rows

from tests.chaos.checks import fixed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Eight steps an iteration at a high learning rate: ratios leave 1, so the gates differ within three iterations.
GRID = ("gates=[softsign,clip]", "seeds=[0]", "num_iterations=3", "checkpoint.every=1")
SEPARATING = ("learner.num_minibatches=2", "learner.num_epochs=2", "learner.lr=1e-3", "learner.lr_schedule=constant")


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A finished `python -m orchestration.study`."""

    status: int
    output: str
    folder: Path

    def table(self) -> list[list[str]]:
        """The first table of the report without its throughput, which is last."""
        lines = (self.folder / "report.md").read_text().splitlines()
        rows = [line for line in lines if line.startswith("|")]
        rows = rows[: next(i for i, line in enumerate(rows) if line.startswith("| pair"))]
        assert rows[0].rstrip("| ").endswith("samples/s")
        return [line.strip("| ").split(" | ")[:-1] for line in rows]

    def fixed_iterations(self) -> list[dict[str, str]]:
        with (self.folder / "iterations.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [fixed(row) for row in rows]


def start_study(folder: Path, model: Path) -> "subprocess.Popen[str]":
    words = [f"study_dir={folder}", f"model.path={model}", *SMALL, *GRID, *SEPARATING]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration.study", *words],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", folder: Path) -> StudyRun:
    output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
    return StudyRun(status=process.returncode, output=output, folder=folder)


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "study"


@pytest.fixture(scope="module")
def undisturbed(study_dir: Path, tied_model: Path) -> StudyRun:
    """A study from start to end; a copy of its folder, because the study is interrupted later on."""
    study = finish(start_study(study_dir, tied_model), study_dir)
    assert study.status == 0, study.output
    kept = study_dir.with_name("undisturbed")
    shutil.copytree(study_dir, kept)
    return replace(study, folder=kept)


def test_a_study_leaves_its_report_and_tells_how_it_goes(undisturbed: StudyRun) -> None:
    for name in ("report.html", "report.md", "curves.png", "iterations.csv", "pairs.csv"):
        assert (undisturbed.folder / name).stat().st_size > 0, name
        assert name in undisturbed.output
    assert "softsign-seed0: done in" in undisturbed.output
    assert "2 of 2 arms" in undisturbed.output
    assert (undisturbed.folder / "clip-seed0" / "report.html").stat().st_size > 0
    assert len(undisturbed.fixed_iterations()) == 6


def test_arms_of_a_seed_saw_the_same_prompts_and_sampled_alike(undisturbed: StudyRun) -> None:
    lines = (undisturbed.folder / "report.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| 0 | ")]
    _, same_prompts, fingerprint, same_completions = row.strip("| ").split(" | ")
    assert (same_prompts, same_completions) == ("equal", "equal")
    assert len(fingerprint) == 12
    softsign, clip = undisturbed.fixed_iterations()[:3], undisturbed.fixed_iterations()[3:]
    assert softsign[0]["reward/mean"] == clip[0]["reward/mean"], "the first batch comes from the same model"
    assert softsign[2]["policy/entropy"] != clip[2]["policy/entropy"], "and then the gates differ"


def test_interrupted_and_resumed_it_gives_the_same_table(
    undisturbed: StudyRun, study_dir: Path, tied_model: Path, no_process_left: None
) -> None:
    """Its second arm is taken away and trained again, with an end in the middle."""
    shutil.rmtree(study_dir / "clip-seed0")
    for report in study_dir.glob("*.*"):
        report.unlink()
    process = start_study(study_dir, tied_model)
    await_rows(study_dir / "clip-seed0" / "metrics.jsonl", 1, process)
    os.killpg(process.pid, signal.SIGINT)
    stopped = finish(process, study_dir)
    assert stopped.status == 130, stopped.output
    assert f"study_dir={study_dir}" in stopped.output, "how to go on"

    resumed = finish(start_study(study_dir, tied_model), study_dir)
    assert resumed.status == 0, resumed.output
    kept, first = (
        (folder / "softsign-seed0" / "metrics.jsonl").stat().st_mtime_ns for folder in (study_dir, undisturbed.folder)
    )
    assert kept == first, "a finished arm is kept"
    assert resumed.table() == undisturbed.table()
    assert resumed.fixed_iterations() == undisturbed.fixed_iterations()
    assert (study_dir / "pairs.csv").read_text() == (undisturbed.folder / "pairs.csv").read_text()
