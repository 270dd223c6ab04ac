"""Runs that are ahead of the learner or replace groups, on real parts: what is trained, how old, what a resume does."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support import CommandRun, RunCommand

from rollout.recording import read_iteration

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# With a model that ends at random some groups have equal rewards and some do not: long completions are punished.
VARIED = (
    "rollout.completions_per_prompt=2",
    "objective.overlong=punish",
    "objective.overlong_buffer=4",
    "learner.lr_schedule=constant",
    "checkpoint.every=2",
)


def trained(folder: Path, num_iterations: int) -> list[list[int]]:
    """Positions of the prompts that each iteration trained."""
    return [[graded.position for graded in read_iteration(folder, k)] for k in range(num_iterations)]


def positions_after(run: CommandRun, iteration: int) -> dict[str, Any]:
    path = run.run_dir / "checkpoints" / f"iteration-{iteration:06d}" / "state.json"
    found: dict[str, Any] = json.loads(path.read_text())["positions"]
    return found


def close_the_terminal(driver: int) -> None:
    os.killpg(driver, signal.SIGHUP)


def test_batches_of_the_groups_that_finish_first_keep_the_bound_and_drop_nothing(
    run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    settings = (
        "max_staleness=2",
        "rollout.batch_order=finished",
        "rollout.max_new_tokens=48",
        "num_iterations=6",
        "learner.old_logprobs=recompute",
    )
    run = run_command(tmp_path / "run", *settings, f"rollout.record={tmp_path / 'record'}")
    assert run.status == 0, run.output
    batches = trained(tmp_path / "record", 6)
    assert [len(batch) for batch in batches] == [4] * 6
    assert sorted(index for batch in batches for index in batch) == list(range(24)), "each prompt once, none dropped"
    for row in run.rows():
        assert row["staleness/max"] <= 2
        shares = {name: share for name, share in row.items() if name.startswith("staleness/share@")}
        assert shares.keys() <= {f"staleness/share@{behind}" for behind in range(3)}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert 0 < row["engine/paused_share"] < 1
    assert max(row["staleness/max"] for row in run.rows()) >= 1, "generation ran ahead"
    shares = [row["learner/scored_ahead_share"] for row in run.rows() if "learner/scored_ahead_share" in row]
    assert shares, "the learner has waited at least once for the last groups"
    assert all(0 < share <= 1 for share in shares)
    mismatches = [row["mismatch/kl"] for row in run.rows() if "mismatch/kl" in row]
    assert mismatches, "some completions were of the weights at hand"
    assert max(map(abs, mismatches)) < 1e-5
    assert positions_after(run, 6) == {"unused": 24, "open": []}


def test_groups_without_a_gradient_are_replaced_and_a_resume_goes_on_behind_them(
    run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    settings = (*VARIED, "gate=arctan", "rollout.dynamic_sampling=true", f"rollout.record={tmp_path / 'record'}")
    more = (*settings, "num_iterations=40")
    first = run_command(tmp_path / "run", *more, interrupt_after=2, interrupt=close_the_terminal)
    assert first.status == 129, first.output
    assert "softgate: hung up (SIGHUP)" in first.output.splitlines()
    done = len(first.rows())
    unused = positions_after(first, done)["unused"]
    replaced = sum(row["group/replaced"] for row in first.rows())
    assert unused == 4 * done + replaced > 4 * done, "some groups of this model teach nothing"
    assert all(index < unused for batch in trained(tmp_path / "record", done) for index in batch)

    num_iterations = done + 2
    resumed = run_command(tmp_path / "run", *settings, f"num_iterations={num_iterations}", "resume=true")
    assert resumed.status == 0, resumed.output
    batches = trained(tmp_path / "record", num_iterations)
    assert min(batches[done]) >= unused, "no prompt is generated twice"
    indices = [index for batch in batches for index in batch]
    assert len(indices) == len(set(indices)) == 4 * num_iterations, "the batches are full, of different prompts"
    rows = resumed.rows()
    replaced = sum(row["group/replaced"] for row in rows)
    assert positions_after(resumed, num_iterations)["unused"] == 4 * num_iterations + replaced
    for row in rows:
        assert row["staleness/max"] == 0
        assert 0 <= row["group/attempts"] <= 3
