"""The files of a long run: what leaves them at their limits, and that no iteration reads what came before."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sampled import one_turn
from step_reports import step
from verdicts import verdict_of

from configs.journal import JournalConfig
from orchestration.journal import json_lines
from orchestration.journal.eval_rows import EvalSample, Evaluation
from orchestration.journal.journal import Journal
from orchestration.journal.log_file import LogFile
from orchestration.journal.row_files import EvalFiles, RolloutsFile
from orchestration.journal.run_record import read_run
from orchestration.journal.trace import TraceFile, read_spans
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup
from transfer.spans import Span


def graded(position: int) -> GradedGroup:
    completion = Completion(tokens=one_turn([0], range(3)), text="x" * 100, finished=True)
    prompt = Prompt(
        position=position, token_ids=np.zeros(1, dtype=np.int32), text="1+1=", reference_answer="2", source=""
    )
    group = PromptGroup(prompt=prompt, completions=(completion,) * 2, engine_index=0, generate_s=0.5)
    return GradedGroup(group=group, verdicts=(verdict_of(format=1.0, answer=1.0),) * 2)


def write(folder: Path, iterations: Sequence[int], *, start_iteration: int = 0, limit_bytes: int = 10_000) -> list[int]:
    """Writes rollouts of these iterations; the iterations that the file then holds."""
    file = RolloutsFile(folder, start_iteration=start_iteration, num_groups=1, limit_bytes=limit_bytes)
    for iteration in iterations:
        file.write_groups(iteration, [graded(iteration)], policy_version=iteration)
        assert (folder / "rollouts.jsonl").stat().st_size <= limit_bytes
    return [json.loads(line)["iteration"] for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_rollouts_beyond_the_limit_leave_every_second_iteration_and_cover_the_whole_run(tmp_path: Path) -> None:
    kept = write(tmp_path, range(500))
    every = kept[1]
    assert every in (32, 64, 128)
    assert kept == list(range(0, 500, every))
    assert not (tmp_path / "rollouts.dropped.jsonl").exists(), "what leaves at the limit is deleted"


def test_a_resumed_run_keeps_the_rollouts_of_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("undisturbed", "resumed"):
        (tmp_path / name).mkdir()
    expected = write(tmp_path / "undisturbed", range(300))
    write(tmp_path / "resumed", range(200))
    assert write(tmp_path / "resumed", range(120, 300), start_iteration=120) == expected


def test_evaluations_beyond_the_limit_lose_their_samples_the_first_and_the_last_aside(tmp_path: Path) -> None:
    sample = EvalSample(
        set="sums", problem=0, sample=0, prompt="1+1=", reference="2", completion="2", length=1, finished=True,
        format=0.0, answer=0.0,
    )  # fmt: skip
    size = len(json_lines.text_of([{name: getattr(sample, name) for name in EvalSample.__slots__}]))
    (tmp_path / "evals" / "mine").mkdir(parents=True)  # somebody else's folder there is left alone
    for begin in (0, 6):  # the second time as after a resume
        files = EvalFiles(tmp_path, start_iteration=begin, limit_bytes=3 * size + 5)
        for iteration in range(begin, begin + 6):
            files.write_evaluation(iteration, Evaluation(metrics={"eval/sums/length": 1.0}, samples={"sums": [sample]}))
    assert sorted(path.name for path in (tmp_path / "evals").iterdir()) == ["0", "10", "11", "mine"]
    assert len((tmp_path / "eval.jsonl").read_text().splitlines()) == 12, "its metrics stay"


def test_a_trace_keeps_the_newest_spans_in_two_files_that_viewers_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = TraceFile(path, limit_bytes=8000)
    spans = [
        Span(name="step", kind="learner", index=0, start_s=1e9 + number, end_s=1e9 + number + 0.5)
        for number in range(500)
    ]
    for span in spans:
        trace.write_spans([span])
    trace.close(failed=False)
    files = [tmp_path / "trace.previous.json", path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert sum(file.stat().st_size for file in files) < 8000 + 500
    for file in files:
        names = [event["args"]["name"] for event in json.loads(file.read_text()) if event["ph"] == "M"]
        assert {"learners", "learner 0"} <= set(names)
    found = read_spans(path)
    assert 30 < len(found) < 100
    assert found == spans[-len(found) :]


def test_a_full_log_is_emptied_under_those_who_write_to_it(tmp_path: Path) -> None:
    program = (
        "import sys\nfor line in sys.stdin: print(line, end='', flush=True); print('ok', file=sys.stderr, flush=True)"
    )
    with (tmp_path / "run.log").open("ab") as log:  # as a command's output is redirected
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.PIPE, text=True
        )

    def print_in_child(text: str) -> None:
        child.stdin.write(f"{text}\n")
        child.stdin.flush()
        child.stderr.readline()

    file = LogFile(tmp_path, limit_bytes=4000)
    for number in range(200):
        file.write(f"line {number}")
        print_in_child(f"child {number}")
        file.write_row({"iteration": number})
    child.communicate()
    previous, last = ((tmp_path / name).read_text() for name in ("run.previous.log", "run.log"))
    assert len(previous) + len(last) < 4200
    assert "\0" not in last, "the child goes on at the beginning of the emptied file"
    lines = [line for line in (previous + last).splitlines() if line.startswith("child")]
    assert lines == [f"child {number}" for number in range(200 - len(lines), 200)]
    assert len(lines) > 50


def test_dropped_rows_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "DROPPED_LIMIT_BYTES", 100)
    for number in range(50):
        json_lines.append_rows(tmp_path / "rows.jsonl", [{"number": number}])
        json_lines.keep_rows(tmp_path / "rows.jsonl", lambda row: False)
    dropped = (tmp_path / "rows.dropped.jsonl").read_text().splitlines()
    assert len("".join(dropped)) < 150
    assert json.loads(dropped[-1]) == {"number": 49}


def num_bytes_read() -> int:
    """Bytes that this process has read so far."""
    line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(line.removeprefix("rchar: "))


def test_an_iteration_reads_nothing_of_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk's time is not the point
    config = JournalConfig(tensorboard=True)
    settings: dict[str, Any] = {"num_iterations": 200, "max_staleness": 0, "gate_name": "softsign"}
    read = []
    with Journal(tmp_path, config=config, console=Console(file=io.StringIO()), **settings) as journal:
        for iteration in range(200):
            before = num_bytes_read()
            with journal.iteration(iteration) as entry:
                entry.rollouts([graded(iteration)], policy_version=iteration)
                entry.record_step(step(loss=0.0, gate__eur=0.9))
            journal.record_eval(iteration + 1, Evaluation(metrics={"eval/sums/length": 1.0}, samples={}))
            read.append(num_bytes_read() - before)
    file_size = (tmp_path / "eval.jsonl").stat().st_size
    assert max(read[150:]) < file_size / 10, "a tenth of the smallest file that grows"


def test_the_record_of_a_run_holds_names_of_metrics_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    json_lines.append_rows(path, [{"iteration": number, "reward/mean": 1.0} for number in range(3)])
    first, *rest = json_lines.read_rows(path)
    for row in rest:
        assert [id(name) for name in row] == [id(name) for name in first]


@pytest.mark.parametrize("every", [1, 4])
def test_a_report_has_samples_of_a_file_that_lost_iterations(tmp_path: Path, every: int) -> None:
    from configs.loading import dump_yaml, load_config

    (tmp_path / "config.yaml").write_text(dump_yaml(load_config([])))
    write(tmp_path, range(0, 40, every), limit_bytes=10**6)
    record = read_run(tmp_path)
    assert [group.iteration for group in record.samples] == [0, 20, 40 - every]
    assert sorted(record.prompts) == list(range(0, 40, every))
