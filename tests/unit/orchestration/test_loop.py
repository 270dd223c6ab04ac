"""The loop with parts that record what happens: order, versions, and what a failure leaves."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sampled import one_turn, versions
from verdicts import verdict_of

from configs.loading import load_config
from learner.contract import StepReport, TrainBatch
from orchestration.boundary import Boundary
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.interfaces import ActorStatus
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.journal import Journal
from orchestration.loop import iterate, save
from orchestration.stream.positions import FRESH
from orchestration.terminal.stopping import Stopping
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup
from transfer.fingerprints import Fingerprint, write_hashed
from transfer.spans import Span

CONFIG = [
    "num_iterations=3",
    "checkpoint.every=2",
    "rollout.prompts_per_iteration=2",
    "rollout.completions_per_prompt=2",
]


class RecordedParts:
    """Stands in for engines, learner and channel; every call is an event."""

    def __init__(self, *, fail_publish_at: int | None = None) -> None:
        self.events: list[str] = []
        self.version = -1
        self._fail_publish_at = fail_publish_at
        self.channel = SimpleNamespace(publish=self._publish)
        self.groups = SimpleNamespace(admit=self._admit, take=self._take, summary=lambda: {}, positions=lambda: FRESH)
        self.learner = SimpleNamespace(load=self._load, steps=self._steps, save=self._save, await_saved=self._written)
        self.learner.is_saving = True  # until somebody waits

    def evaluate(self) -> Evaluation:
        self.events.append(f"evaluate {self.version}")
        return Evaluation(metrics={"eval/arithmetic/pass@1": 0.5}, samples={})

    def status(self) -> ActorStatus:
        return ActorStatus(metrics={}, spans=())

    def last_spans(self) -> tuple[Span, ...]:
        return ()

    def _publish(self, version: int) -> Any:
        if version == self._fail_publish_at:
            raise RuntimeError("engine 1 is gone")
        self.version = version
        self.events.append(f"publish {version}")
        return SimpleNamespace(metrics=lambda: {"publish/bytes": 1.0})

    def _admit(self, version: int) -> None:
        self.events.append(f"admit {version}")

    def _take(self, iteration: int) -> list[GradedGroup]:
        self.events.append(f"take {iteration}")
        return [graded(2 * iteration, self.version), graded(2 * iteration + 1, self.version)]

    def _load(self, batch: TrainBatch, iteration: int) -> None:
        assert len(batch.samples) == 4
        self.events.append(f"load {iteration}")

    def _steps(self) -> Iterator[StepReport]:
        for step in range(2):
            self.events.append(f"step {step}")
            yield StepReport(num_tokens=6, grad_norm=1.0, lr=1e-4, metrics={"loss": 0.0})

    def _save(self, path: str, *, pretrained: bool) -> None:
        self.events.append("save")
        self._saving_to, self._saved = Path(path), str(self.version)

    def _written(self) -> dict[str, Fingerprint]:
        self.events.append("saved")
        return {"weights": write_hashed(self._saving_to / "weights", [self._saved.encode()])}


def graded(index: int, version: int) -> GradedGroup:
    completion = Completion(
        tokens=one_turn([1], [3, 4, 5], starts=versions((version, 0))), text="<answer>1</answer>", finished=True
    )
    prompt = Prompt(
        position=index, token_ids=np.array([1], dtype=np.int32), text="1+0=", reference_answer="1", source=""
    )
    group = PromptGroup(prompt=prompt, completions=(completion,) * 2, engine_index=0, generate_s=0.1)
    return GradedGroup(group=group, verdicts=(verdict_of(format=0.25, answer=1.0),) * 2)


def run(parts: RecordedParts, run_dir: Path, *settings: str, resume: bool = False, grace_s: float = 60.0) -> None:
    config = load_config([*CONFIG, *settings, "journal.tensorboard=false", "journal.progress=false"])
    store = CheckpointStore(run_dir / "checkpoints", keep_last=2)
    found = store.latest() if resume else None
    state = found[1] if found else RunState.fresh()
    with (
        Stopping(grace_s=grace_s) as stopping,
        Journal(
            run_dir,
            config=config.journal,
            num_iterations=3,
            max_staleness=0,
            gate_name="softsign",
            start_iteration=state.iteration,
        ) as journal,
        CheckpointSaver(store, parts.learner, pretrained=False, log=journal.log) as saver,  # type: ignore[arg-type]
    ):
        boundary = Boundary(stopping, state)
        with boundary.saved_when_stopped(partial(save, journal, saver, evaluation={}, waits=True), journal.log):
            iterate(config, parts, journal, saver, boundary)  # type: ignore[arg-type]


def test_stages_come_in_order_and_versions_rise_by_one(tmp_path: Path) -> None:
    parts = RecordedParts()
    run(parts, tmp_path)
    iteration = ["admit {0}", "take {0}", "load {0}", "step 0", "step 1", "publish {1}"]
    expected = ["publish 0", "evaluate 0"]
    for k in range(3):
        expected += [event.format(k, k + 1) for event in iteration]
        expected += {0: [], 1: ["save"], 2: ["evaluate 3", "saved", "save", "saved"]}[k]
    assert parts.events == expected, "a checkpoint is written while the next iteration runs, the last is waited for"
    state = json.loads((tmp_path / "checkpoints" / "iteration-000003" / "manifest.json").read_text())
    assert state["evaluation"] == {"eval/arithmetic/pass@1": 0.5}


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (3, [0, 3]), (0, [0, 3])])
def test_evaluations_come_at_either_end_and_as_often_as_asked(tmp_path: Path, every: int, expected: list[int]) -> None:
    parts = RecordedParts()
    run(parts, tmp_path, f"eval.every={every}")
    assert [event for event in parts.events if "evaluate" in event] == [f"evaluate {k}" for k in expected]


def test_a_resume_publishes_the_checkpoints_version_first_and_repeats_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="engine 1 is gone"):
        run(RecordedParts(fail_publish_at=3), tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2, "the iteration whose publish failed leaves no row"

    resumed = RecordedParts()
    run(resumed, tmp_path, resume=True)
    assert resumed.events[:3] == ["publish 2", "admit 2", "take 2"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_publish_that_fails_at_the_start_trains_nothing(tmp_path: Path) -> None:
    parts = RecordedParts(fail_publish_at=0)
    with pytest.raises(RuntimeError, match="engine 1 is gone"):
        run(parts, tmp_path)
    assert parts.events == []
