"""A run whose processes are killed and stopped goes on by itself, and nothing but the clock tells it from another.

The short form of `python -m tests.chaos`: one synchronous round, whose plan strikes every kind of process. It has two
engines and one rank, so that the main job is the undisturbed run that it must equal.
"""

import re
from pathlib import Path

import pytest
from support import ADAPTIVE, EIGHT, CommandRun

from tests.chaos.checks import rows_of
from tests.chaos.plan import Event, Plan
from tests.chaos.rounds import Round

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

EVENTS = (
    Event(iteration=2, delay_s=0.0, kind="kill", target="engine", index=0),
    Event(iteration=2, delay_s=0.0, kind="hang", target="engine", index=0),  # the oldest: the other of the first two
    Event(iteration=3, delay_s=0.1, kind="kill", target="grader", index=0),
    Event(iteration=4, delay_s=0.2, kind="kill", target="rank", index=0),
    Event(iteration=5, delay_s=0.0, kind="stop", target="driver", index=0, stopped_s=3.0),
    Event(iteration=7, delay_s=0.0, kind="damage", target="driver", index=0, damage="flip", place=0.3),
)


def test_killed_stopped_and_damaged_parts_are_replaced_and_change_nothing(
    main_run: CommandRun, tied_model: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    plan = Plan(round=0, max_staleness=0, events=EVENTS)
    settings = (*EIGHT, ADAPTIVE, f"model.path={tied_model}", "learner.num_workers=1")
    attacked = Round(plan, tmp_path / "run", settings, num_iterations=8, tell=told.append)
    result = attacked.play(undisturbed=main_run.run_dir)
    print(*told, f"seconds from an event to a row: {[struck.recovered_s for struck in result.struck]}", sep="\n")
    assert result.broken == ()
    assert [struck.event for struck in result.struck] == list(EVENTS), told
    assert any("damaged iteration-00000" in line for line in told), told

    output = (tmp_path / "run.txt").read_text()
    for line in (
        r"engine \d: its process \d+ died: killed, crashed or out of memory; a new one is starting \(\d of at most \d",
        r"engine \d: (did not answer|had work and made no step) for 8 s; a new one is starting",
        r"engine \d is back after [\w ]+ s; it takes prompts once it has the weights",
        r"grader \d died; a new one takes its place; groups graded again: \d",
        r"[\w ]+: learner rank \d: its process \d+ died: .*; the run goes back to its (start|checkpoint after)",
        r"the learner is back after [\w ]+ s",
        r"checkpoint .*/iteration-00000[68] is skipped: ",
        r"resumed after iteration [36] from ",
    ):
        assert re.search(f"^{line}", output, re.MULTILINE), (line, output)
    assert "ActorDiedError" not in output, "no word of Ray's, which are in the log"
    assert "ActorDiedError" in (tmp_path / "run/run.log").read_text()
    rows = [row for name in ("metrics.jsonl", "metrics.dropped.jsonl") for row in rows_of(tmp_path / "run" / name)]
    for kind, number in {"engines": 2, "learners": 1, "graders": 1}.items():
        assert sum(row.get(f"faults/{kind}", 0) for row in rows) >= number, kind
