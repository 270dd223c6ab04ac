"""The evaluation command on real engines: one seed gives one result, whatever stops or dies, on one engine or two."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import COMMAND_TIMEOUT_S, PROJECT_ROOT, await_rows

from tests.chaos.checks import rows_of
from tests.chaos.plan import Target
from tests.chaos.strikes import processes_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NUM_PROBLEMS, NUM_SAMPLES = 16, 4
MANY_SAMPLES = 96  # so many that an engine is killed while it has work
ROWS, SUMMARY = "arithmetic.jsonl", "summary.json"


def command(folder: Path, *more: str, samples: int = NUM_SAMPLES) -> list[str]:
    settings = (f"num_prompts={NUM_PROBLEMS}", f"samples={samples}", "temperature=1", "seed=5")
    return [sys.executable, "-m", "orchestration.evaluate", "model=embedded", f"out={folder}", *settings, *more]


def evaluate(folder: Path, *more: str) -> str:
    """Runs the command; the lines it printed, those that tell of folder and engines left out."""
    ended = subprocess.run(
        command(folder, *more), cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return "\n".join(ended.stdout.splitlines()[-2:])


def attacked(folder: Path, *more: str, targets: tuple[Target, ...]) -> tuple[int, str]:
    """Runs the command with many samples, and kills a process of each kind in the middle; its status and output."""
    process = subprocess.Popen(
        command(folder, *more, samples=MANY_SAMPLES),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_rows(folder / ROWS, 1, process)
    for target in targets:
        processes_of(psutil.Process(process.pid), target)[0].kill()
    output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
    return process.returncode, output


def samples_of(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Rows by problem and sample."""
    return {(row["problem"], row["sample"]): row for row in rows_of(folder / ROWS)}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("evaluated") / "a"
    return folder, evaluate(folder)


def test_the_engines_serve_the_weights_of_the_model_folder(evaluated: tuple[Path, str]) -> None:
    """Dummy or random weights have no format at all; the warm start has half of it and some right answers."""
    folder, table = evaluated
    metrics = json.loads((folder / SUMMARY).read_text())["metrics"]
    assert metrics["eval/arithmetic/format"] > 0.3
    assert 0.0 < metrics["eval/arithmetic/pass@1"] <= metrics[f"eval/arithmetic/pass@{NUM_SAMPLES}"] < 1.0
    assert len((folder / ROWS).read_text().splitlines()) == NUM_PROBLEMS * NUM_SAMPLES
    assert f"{metrics['eval/arithmetic/pass@1']:.1%}" in table


def test_a_stopped_evaluation_goes_on_with_more_engines_and_gives_the_same_rows_and_table(
    evaluated: tuple[Path, str], tmp_path: Path, no_process_left: None
) -> None:
    """All problems but the first are sampled a second time, now on two engines."""
    folder, table = evaluated
    stopped = tmp_path / "stopped"
    shutil.copytree(folder, stopped)
    begun = json.loads((folder / SUMMARY).read_text()) | {"metrics": {}}
    (stopped / SUMMARY).write_text(json.dumps(begun))
    rows = (folder / ROWS).read_text()
    lines = rows.splitlines(keepends=True)
    left_over, cut = lines[NUM_SAMPLES], lines[NUM_SAMPLES + 1][:-10]  # of the second problem
    (stopped / ROWS).write_text("".join(lines[:NUM_SAMPLES]) + left_over + cut)
    assert evaluate(stopped, "rollout.num_engines=2") == table
    assert (stopped / ROWS).read_text() == rows
    assert (stopped / SUMMARY).read_bytes() == (folder / SUMMARY).read_bytes()
    dropped = (stopped / "arithmetic.dropped.jsonl").read_text()
    assert json.loads(dropped.splitlines()[0]) == json.loads(left_over), "the rest of the problem is kept aside"


def test_engine_and_grader_that_die_are_replaced_and_change_nothing(
    evaluated: tuple[Path, str], tmp_path: Path, no_process_left: None
) -> None:
    status, output = attacked(tmp_path / "hit", targets=("engine", "grader"))
    assert status == 0, output
    for told in (
        r"engine 0: its process \d+ died: .*; a new one is starting \(1 of at most 10 restarts an hour\)",
        r"engine 0 is back after .* s; it takes prompts once it has the weights",
        r"grader 0 died; a new one takes its place; groups graded again: \d+",
    ):
        assert any(re.match(told, line) for line in output.splitlines()), (told, output)
    rows, expected = samples_of(tmp_path / "hit"), samples_of(evaluated[0])
    assert len(rows) == NUM_PROBLEMS * MANY_SAMPLES
    assert {key: rows[key] for key in expected} == expected


def test_an_engine_that_may_not_be_replaced_is_named_and_ends_the_evaluation(
    tmp_path: Path, no_process_left: None
) -> None:
    status, output = attacked(tmp_path / "hit", "recovery.max_restarts=0", targets=("engine",))
    assert status == 1, output
    told = r"softgate: engine 0: its process \d+ died: .*; recovery.max_restarts=0: nothing is started again"
    assert re.fullmatch(told, output.splitlines()[-1]), output
