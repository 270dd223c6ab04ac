"""The main job on real parts, run as a user runs it."""

from collections import Counter
from pathlib import Path

import pytest
from support import CommandRun, RunCommand

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_a_run_leaves_its_trace(main_run: CommandRun) -> None:
    rows = main_run.rows()
    assert [row["iteration"] for row in rows] == list(range(8))
    assert [row["policy_version"] for row in rows] == list(range(8))
    for row in rows:
        assert row["staleness/max"] == 0
        assert row["staleness/share@0"] == 1
        assert 0 < row["engine/paused_share"] < 1
        assert row["mismatch/max"] < 1e-4, "engine and learner compute the same logprobs after every publish"
        assert 0 < row["gate/eur"] <= 1
        assert row["audit/softsign/eur"] == pytest.approx(row["gate/eur"], rel=1e-6)
        assert 0 < row["idle/learner"] < 1
        assert 0 < row["idle/engines"] < 1
        # Synchronous: the two are at work together during a publish only.
        assert row["idle/learner"] + row["idle/engines"] > 0.5
    assert rows[0]["gate/tau_pos"] == 10.0
    assert len({row["gate/tau_neg"] for row in rows}) > 4, "the taus follow the target EUR"
    for name in ("config.yaml", "curves.png", "report.html", "run.log", "rollouts.jsonl", "model/model.safetensors"):
        assert (main_run.run_dir / name).stat().st_size > 0, name
    evaluations = main_run.rows("eval.jsonl")
    assert [row["iteration"] for row in evaluations] == [0, 8]
    for row in evaluations:
        samples = main_run.rows(f"evals/{row['iteration']}/arithmetic.jsonl")
        assert [sample["problem"] for sample in samples] == [0, 1, 2, 3]
        assert row["eval/arithmetic/length"] == sum(sample["length"] for sample in samples) / 4
    assert sum("reward" in line and "EUR" in line for line in main_run.output.splitlines()) == 8


def test_the_trace_tells_what_every_process_did(main_run: CommandRun) -> None:
    spans = main_run.spans()
    count = Counter((span.track, span.name) for span in spans)
    stages = ("iteration", "wait", "old_logprobs", "update", "publish", "evaluate", "checkpoint")
    # version 0, then one an iteration; before the first and after the last; every 3 and at the end
    assert [count["driver", name] for name in stages] == [8, 8, 8, 8, 9, 2, 3]
    assert (count["learner 0", "load"], count["learner 0", "step"], count["learner 0", "send"]) == (8, 16, 9)
    assert count["engine 0", "publish"] == 9
    assert count["engine 0", "generate"] >= 10, "in each iteration and each evaluation"
    assert count["grader 0", "grade"] >= 1
    stage = {name: [span for span in spans if span.name == name] for name in ("iteration", "wait", "update")}
    for iteration, wait, update in zip(*stage.values(), strict=True):
        generating = [
            s for s in spans if s.name == "generate" and iteration.start_s <= s.start_s <= s.end_s < wait.end_s
        ]
        steps = [s for s in spans if s.name == "step" and update.start_s <= s.start_s <= s.end_s <= update.end_s]
        assert generating, "the driver waits for an engine that generates"
        assert len(steps) == 2, "and updates while the rank steps"
    assert "Where time goes" in (main_run.run_dir / "report.html").read_text()


# Each gate in a run that shows something else besides: a start of Ray and vLLM takes most of a run this small. Arctan:
# test_pipeline.py, power: test_replay.py, sigmoid: test_data_job.py, erf: test_cluster.py, one of one's own:
# test_objective_run.py.


def test_a_failing_clip_run_ends_with_its_block_before_the_pictures_and_leaves_no_process(
    main_run: CommandRun, run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    run = run_command(
        tmp_path / "run", "gate=clip", "learner.lr=1e30", "learner.max_grad_norm=1e30", "num_iterations=4"
    )
    assert run.status == 1, run.output
    assert run.texts(0) == main_run.texts(0) != []
    lines = run.output.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("softgate: "))
    what, when, *rest = lines[begin : begin + 5]
    assert "not finite" in what
    assert when.startswith("  in iteration ")
    assert [line.partition(":")[0] for line in rest] == ["  safe", "  log", "  to go on"]
    assert all(line.startswith(("curves: ", "report: ")) for line in lines[begin + 5 :]), lines
    assert (run.run_dir / "report.html").exists() == (run.run_dir / "metrics.jsonl").exists()
    assert "Traceback" not in run.output
    assert "Traceback" in (run.run_dir / "run.log").read_text()
