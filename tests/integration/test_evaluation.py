"""The evaluation command on real engines: one seed gives one result, in one piece or stopped, on one engine or two."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import COMMAND_TIMEOUT_S, PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NUM_PROBLEMS, NUM_SAMPLES = 16, 4
ROWS, SUMMARY = "arithmetic.jsonl", "summary.json"


def evaluate(folder: Path, *more: str) -> str:
    """Runs the command; the lines it printed, those that tell of folder and engines left out."""
    settings = (f"num_prompts={NUM_PROBLEMS}", f"samples={NUM_SAMPLES}", "temperature=1", "seed=5")
    command = [sys.executable, "-m", "orchestration.evaluate", "model=embedded", f"out={folder}", *settings, *more]
    ended = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return "\n".join(ended.stdout.splitlines()[-2:])


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
