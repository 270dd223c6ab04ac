import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sampled import one_turn
from step_reports import step
from verdicts import verdict_of

from configs.schema import JournalConfig
from orchestration.journal.curves import PANELS, curve_panels, draw_curves
from orchestration.journal.entry import JournalError
from orchestration.journal.eval_rows import EvalSample, Evaluation
from orchestration.journal.journal import Journal
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup

PLAIN = JournalConfig(tensorboard=False)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
METRICS_DOC = Path(__file__).parents[4] / "docs" / "metrics.md"


def graded(index: int, *, rewards: Sequence[tuple[float, float]] = ((1.0, 1.0), (0.5, 0.0))) -> GradedGroup:
    completion = Completion(tokens=one_turn([0, 0], range(5)), text="<think>é</think>", finished=True)
    prompt = Prompt(position=index, token_ids=np.zeros(2, dtype=np.int32), text="1+1=", reference_answer="2", source="")
    group = PromptGroup(prompt=prompt, completions=(completion,) * len(rewards), engine_index=0, generate_s=0.5)
    return GradedGroup(group=group, verdicts=tuple(verdict_of(format=f, answer=a) for f, a in rewards))


def open_journal(
    folder: Path, *, config: JournalConfig = PLAIN, console: Console | None = None, **more: Any
) -> Journal:
    silent = console if console is not None else Console(file=io.StringIO())
    settings = {"num_iterations": 4, "max_staleness": 0, "gate_name": "softsign"}
    return Journal(folder, config=config, console=silent, **settings, **more)


def evaluated(metrics: dict[str, float]) -> Evaluation:
    return Evaluation(metrics=metrics, samples={})


def run_iteration(journal: Journal, iteration: int) -> None:
    with journal.iteration(iteration) as entry:
        with entry.timed("wait"):
            groups = [graded(2 * iteration), graded(2 * iteration + 1), graded(2 * iteration + 2)]
        entry.rollouts(groups, policy_version=iteration)
        with entry.timed("update"):
            entry.record_step(step(loss=-0.1 * iteration, gate__eur=0.9, policy__entropy=0.5))
            entry.record_step(step(loss=-0.1 * iteration, gate__eur=0.8, policy__entropy=0.4))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("time/") and "per_s" not in name}


def test_an_iteration_becomes_one_row(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0)
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert without_times(row) == pytest.approx(
        {
            "iteration": 0,
            "policy_version": 0,
            "reward/mean": 1.25,
            "reward/std": 0.75,
            "reward/format": 0.75,
            "reward/answer": 0.5,
            "completion/length_mean": 5.0,
            "completion/truncated_share": 0.0,
            "group/zero_variance_share": 0.0,
            "staleness/mean": 0.0,
            "staleness/max": 0.0,
            "staleness/share@0": 1.0,
            "loss": 0.0,
            "grad_norm": 1.0,
            "lr": 1e-4,
            "gate/eur": 0.85,
            "policy/entropy": 0.45,
        }
    )
    assert row["throughput/tokens_per_s"] == pytest.approx(30 / row["time/iteration_s"])
    assert row["throughput/samples_per_s"] == pytest.approx(6 / row["time/iteration_s"])
    assert row["learner/tokens_per_s"] == pytest.approx(20 / row["time/update_s"])
    assert next(iter(row)) == "iteration"


def test_times_of_one_name_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with open_journal(tmp_path) as journal, journal.iteration(0) as entry:
        for seconds in (1.0, 2.5):
            with entry.timed("publish"):
                clock[0] += seconds
        clock[0] += 0.5
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row == {"iteration": 0, "time/iteration_s": 4.0, "time/publish_s": 3.5}


def test_the_engines_pause_is_a_share_of_the_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with open_journal(tmp_path) as journal, journal.iteration(0) as entry:
        entry.record({"engine/paused_s": 2.0})
        clock[0] += 8.0
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row["engine/paused_share"] == 0.25


def test_rollouts_hold_full_text_of_the_first_groups(tmp_path: Path) -> None:
    with open_journal(tmp_path, config=JournalConfig(tensorboard=False, rollouts_per_iteration=2)) as journal:
        run_iteration(journal, 0)
    first, second = rows(tmp_path / "rollouts.jsonl")
    assert (first["position"], second["position"]) == (0, 1)
    assert (first["prompt"], first["reference_answer"], first["iteration"]) == ("1+1=", "2", 0)
    assert [completion["reward"] for completion in first["completions"]] == [2.0, 0.5]
    assert first["completions"][0]["text"] == "<think>é</think>"
    assert [completion["rewards"] for completion in first["completions"]] == [
        {"format": 1.0, "answer": 1.0},
        {"format": 0.5, "answer": 0.0},
    ]


def fail_in_iteration(folder: Path) -> None:
    with open_journal(folder) as journal, journal.iteration(0) as entry:
        entry.rollouts([graded(0)], policy_version=0)
        raise OSError("peer gone")


def test_a_failed_iteration_leaves_its_rollouts_and_no_row(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="peer gone"):
        fail_in_iteration(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert len(rows(tmp_path / "rollouts.jsonl")) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_a_metric_that_is_not_finite_stops_the_run_by_name(tmp_path: Path, value: float) -> None:
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0)
        with pytest.raises(JournalError, match="iteration 1: reward/mean is"), journal.iteration(1) as entry:
            entry.record({"reward/mean": value})
        with pytest.raises(JournalError, match="iteration 1, step 1: gate/eur is"), journal.iteration(1) as entry:
            entry.record_step(step(gate__eur=value))
        with pytest.raises(JournalError, match="evaluation after 3 iterations: eval/arithmetic/pass@1"):
            journal.record_eval(3, evaluated({"eval/arithmetic/pass@1": value}))
    assert len(rows(tmp_path / "metrics.jsonl")) == 1
    assert not (tmp_path / "eval.jsonl").exists()


def test_malformed_names_are_refused(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, pytest.raises(JournalError, match="'Reward mean'"):
        journal.record_eval(0, evaluated({"Reward mean": 1.0}))


def test_numpy_numbers_become_plain_json(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, journal.iteration(0) as entry:
        entry.record({"publish/bytes": 7, "loss": np.float32(0.5), "ratio/mean": np.float64(1.0)})
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert (row["publish/bytes"], row["loss"], row["ratio/mean"]) == (7, 0.5, 1.0)


def test_iterations_come_in_order(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, pytest.raises(AssertionError, match="next is 0"):
        run_iteration(journal, 1)


def test_a_resumed_run_leaves_the_files_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    for folder, parts in ((undisturbed, [range(4)]), (resumed, [range(3), range(2, 4)])):
        folder.mkdir()
        for part in parts:
            with open_journal(folder, start_iteration=part.start) as journal:
                for iteration in part:
                    run_iteration(journal, iteration)
                    journal.record_eval(iteration + 1, evaluated({"eval/arithmetic/pass@1": 0.1 * iteration}))
    with (resumed / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "loss": 0.')  # a crash in mid-write
    with open_journal(resumed, start_iteration=4) as journal:
        result = journal.result()
    for name in ("metrics.jsonl", "rollouts.jsonl", "eval.jsonl"):
        assert [without_times(row) for row in rows(resumed / name)] == [
            without_times(row) for row in rows(undisturbed / name)
        ]
    assert result.num_iterations == 4
    dropped = (resumed / "metrics.dropped.jsonl").read_text().splitlines()
    assert json.loads(dropped[0])["iteration"] == 2
    assert dropped[1] == '{"iteration": 4, "loss": 0.'
    assert [row["iteration"] for row in rows(resumed / "eval.dropped.jsonl")] == [3]


def test_kept_rows_are_not_rewritten_in_another_form(tmp_path: Path) -> None:
    line = '{"iteration":0,   "loss": 1.0000000000000002e-07}\n'
    (tmp_path / "metrics.jsonl").write_text(line + '{"iteration": 1}\n')
    with open_journal(tmp_path, start_iteration=1):
        assert (tmp_path / "metrics.jsonl").read_text() == line


def test_a_resume_that_does_not_fit_the_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n')
    with pytest.raises(JournalError, match=r"resume at iteration 3 .* found 1"):
        open_journal(tmp_path, start_iteration=3)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2: is not JSON"):
        open_journal(tmp_path, start_iteration=1)


def test_a_repeated_evaluation_replaces_the_old_one(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.record_eval(0, evaluated({"eval/arithmetic/pass@1": 0.1}))
        journal.record_eval(0, evaluated({"eval/other/pass@1": 0.2}))
        journal.record_eval(0, evaluated({"eval/arithmetic/pass@1": 0.3}))
        evals = journal.result().evals
    assert [dict(item.metrics) for item in evals] == [{"eval/other/pass@1": 0.2}, {"eval/arithmetic/pass@1": 0.3}]
    assert (tmp_path / "eval.dropped.jsonl").exists()


def test_a_task_without_evaluation_sets_leaves_no_evaluation(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.record_eval(0, evaluated({}))
        assert journal.result().evals == ()
    assert not (tmp_path / "eval.jsonl").exists()


def test_samples_of_an_evaluation_lie_under_its_iteration(tmp_path: Path) -> None:
    sample = EvalSample(
        set="sums", problem=0, sample=0, prompt="1+1=", reference="2", completion="2", length=1, finished=True,
        format=0.0, answer=0.0,
    )  # fmt: skip
    with open_journal(tmp_path) as journal:
        for length in (1, 2):  # the second time in place of the first, as a resume repeats it
            samples = {"sums": [replace(sample, length=length)] * 2}
            journal.record_eval(3, Evaluation(metrics={"eval/sums/length": length}, samples=samples))
    written = rows(tmp_path / "evals" / "3" / "sums.jsonl")
    assert [row["length"] for row in written] == [2, 2]


def test_an_evaluation_is_one_line_a_set_with_its_interval(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = {
        "eval/gsm8k/pass@1": 0.5,
        "eval/gsm8k/pass@1_low": 0.4512,
        "eval/gsm8k/pass@1_high": 0.55,
        "eval/gsm8k/pass@8": 0.75,
        "eval/gsm8k/length": 9.26,
        "eval/aime24/pass@1": 0.0,
    }
    with open_journal(tmp_path, console=Console(file=out, width=60)) as journal:
        journal.record_eval(2, evaluated(metrics))
    assert out.getvalue().splitlines() == [
        "evaluation after 2 iterations  gsm8k  pass@1 50.0% [45.1%, 55.0%]  pass@8 75.0%  length 9.3 tokens",
        "evaluation after 2 iterations  aime24  pass@1 0.0%",
    ]


def test_result_averages_the_first_and_the_last_ten(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        assert journal.result().reward_first10 is None
        for iteration in range(25):
            with journal.iteration(iteration) as entry:
                entry.record({"reward/mean": float(iteration)})
        result = journal.result()
    assert (result.reward_first10, result.reward_last10) == (4.5, 19.5)
    assert result.num_iterations == 25
    assert result.final_metrics["reward/mean"] == 24.0
    assert result.run_dir == tmp_path


def test_curves_are_drawn_from_two_iterations_on(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0)
        assert draw_curves(tmp_path, gate_name="softsign", num_iterations=4) is None
        run_iteration(journal, 1)
    assert draw_curves(tmp_path, gate_name="softsign", num_iterations=4) == tmp_path / "curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG_MAGIC)


def test_one_console_line_an_iteration_with_units(tmp_path: Path) -> None:
    out = io.StringIO()
    with open_journal(tmp_path, console=Console(file=out, width=60)) as journal:
        run_iteration(journal, 0)
        run_iteration(journal, 1)
        journal.record_eval(2, evaluated({"eval/arithmetic/pass@1": 0.975, "eval/arithmetic/length": 21.04}))
        journal.log("note [not markup]")
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    pattern = (
        r"iteration 2/4  reward 1\.25 points  answer 0\.50  format 0\.75  EUR 85\.0%  entropy 0\.450 nats  "
        r"[\d,]+ tokens/s  length 5\.0 tokens  staleness 1\.0 versions  \d+\.\d\d s  left \d+ s"
    )
    assert re.fullmatch(pattern, lines[1])
    assert lines[2] == "evaluation after 2 iterations  arithmetic  pass@1 97.5%  length 21.0 tokens"
    assert lines[3] == "note [not markup]"
    logged = (tmp_path / "run.log").read_text().splitlines()
    assert [line[len("2000-01-01 00:00:00 ") :] for line in logged] == lines


def test_absent_metrics_are_left_out_of_the_line(tmp_path: Path) -> None:
    out = io.StringIO()
    with open_journal(tmp_path, console=Console(file=out)) as journal, journal.iteration(0) as entry:
        entry.record({"reward/mean": 0.5})
    assert re.fullmatch(r"iteration 1/4  reward 0\.50 points  \d+\.\d\d s  left \d+ s\n", out.getvalue())


def test_a_reward_of_ones_own_is_in_the_line_and_in_the_picture(tmp_path: Path) -> None:
    out = io.StringIO()
    with open_journal(tmp_path, console=Console(file=out)) as journal, journal.iteration(0) as entry:
        entry.record({"reward/mean": 1.58, "reward/format": 1.0, "reward/answer": 0.5, "reward/short": 0.8})
    assert "  reward 1.58 points  answer 0.50  format 1.00  short 0.80  " in out.getvalue()
    panel, *_ = curve_panels(rows(tmp_path / "metrics.jsonl"))
    assert [line.name for line in panel.lines] == ["sum", "answer", "format", "short"]


def terminal(out: io.StringIO) -> Console:
    return Console(file=out, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"})


def shown(out: io.StringIO) -> str:
    """What was written, without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_the_bar_carries_the_last_numbers_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with open_journal(tmp_path, console=terminal(out := io.StringIO())) as journal:
        assert "0/4 iterations 0:00:00 gone" in shown(out)
        for iteration in range(2):
            with journal.iteration(iteration) as entry:
                entry.rollouts([graded(iteration)], policy_version=iteration)
                entry.record_step(step(gate__eur=0.9 - 0.1 * iteration, policy__entropy=0.5))
                clock[0] += 40.0
        frame = shown(out)[shown(out).rindex("softsign") :]
    assert re.match(r"softsign [^\n]+ 2/4 iterations 0:00:\d\d gone, 1 min 20 s left *\n", frame)
    assert "\nreward 1.25 points  EUR 80.0%  entropy 0.500 nats  0 tokens/s" in frame
    assert max(len(line.rstrip()) for line in frame.splitlines()) <= 80

    with open_journal(tmp_path, console=terminal(out := io.StringIO()), start_iteration=2):
        assert "\nreward 1.25 points  EUR 80.0%" in shown(out)


def test_tensorboard_shows_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = JournalConfig(tensorboard=True)
    with open_journal(tmp_path, config=config) as journal:
        for iteration in range(3):
            run_iteration(journal, iteration)
    with open_journal(tmp_path, config=config, start_iteration=2) as journal:
        run_iteration(journal, 2)
        journal.record_eval(3, evaluated({"eval/arithmetic/pass@1": 0.5}))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [item.step for item in events.Scalars("loss")] == [0, 1, 2]
    assert [item.value for item in events.Scalars("loss")] == pytest.approx([0.0, -0.1, -0.2])
    assert [item.value for item in events.Scalars("eval/arithmetic/pass@1")] == [0.5]


def test_every_name_the_journal_writes_or_draws_is_documented(tmp_path: Path) -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", METRICS_DOC.read_text(encoding="utf-8"), flags=re.MULTILINE))
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0)
    (row,) = rows(tmp_path / "metrics.jsonl")
    written = {re.sub(r"@\d+$", "@<k>", name) for name in row}
    drawn = {"reward/mean", *(metric for *_, curves in PANELS for metric, _ in curves)}
    assert written | drawn <= documented


def test_the_driver_side_needs_no_torch() -> None:
    """In a fresh interpreter: this one may have torch from other tests."""
    program = (
        "import sys, tempfile; from pathlib import Path; from configs.schema import JournalConfig\n"
        "import orchestration.checkpoints.store, orchestration.startup.run_dir, orchestration.startup.resume\n"
        "from orchestration.journal.journal import Journal\n"
        "more = {'max_staleness': 0, 'gate_name': 'g'}\n"
        "with Journal(Path(tempfile.mkdtemp()), config=JournalConfig(), num_iterations=2, **more) as journal:\n"
        "    for k in range(2):\n"
        "        with journal.iteration(k) as entry: entry.record({'reward/mean': 1.0})\n"
        "found = {'torch', 'vllm', 'ray', 'deepspeed', 'transformers'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=METRICS_DOC.parents[1], check=True, timeout=300)
