"""The learner's forward passes while groups generate: which groups, in which calls, and when there are none."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from fake_rollout import FakeRollout, Lengths

import orchestration.stream.score_dispatch as module
from learner.contract import TrainBatch
from orchestration.stream.finished_order import LOOKAHEAD, FinishedBuffer
from orchestration.stream.group_stream import ArrivedGroup, GroupStream, Resampling
from orchestration.stream.order import Admission
from orchestration.stream.positions import FRESH
from orchestration.stream.prompt_order import GroupBuffer
from orchestration.stream.score_dispatch import ScoreDispatcher, dispatcher_for
from rollout.contract import PromptGroup, SamplingSpec

PROMPTS = 4
SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=99, temperature=1.0, seed=0)


class Learner:
    """Scores for `ticks` of the rollout's clock; every call is an event beside the rollout's."""

    def __init__(self, rollout: FakeRollout, monkeypatch: pytest.MonkeyPatch, *, ticks: float) -> None:
        self.calls: list[tuple[float, list[int]]] = []  # when, and the lengths of the groups' completions
        self._rollout = rollout
        self._ticks = ticks
        self._free_at = 0.0
        monkeypatch.setattr(module, "ray", SimpleNamespace(get=lambda references: list(references)))

    @property
    def spec(self) -> Any:
        return SimpleNamespace(scores_batches=True)

    @property
    def is_scoring(self) -> bool:
        return self._rollout.now < self._free_at

    def score_ahead(self, batch: TrainBatch) -> None:
        assert not self.is_scoring, "it is asked again while it is at work"
        self._free_at = self._rollout.now + self._ticks
        self.calls.append((self._rollout.now, [sample.tokens.num_sampled for sample in batch.samples[::2]]))


def stream_of(
    rollout: FakeRollout,
    learner: Learner,
    *,
    buffer: Any = None,
    resampling: Resampling | None = None,
    num_iterations: int = 2,
) -> GroupStream:
    return GroupStream(
        rollout,  # type: ignore[arg-type]
        rollout,  # type: ignore[arg-type]
        SAMPLING,
        admission=Admission(prompts_per_iteration=PROMPTS, max_staleness=LOOKAHEAD),
        buffer=GroupBuffer[ArrivedGroup](PROMPTS) if buffer is None else buffer,
        resampling=resampling,
        scoring=dispatcher_for(learner, max_staleness=1),
        start_iteration=0,
        start_positions=FRESH,
        num_iterations=num_iterations,
        counts_failures=False,
    )


def rollout_of(monkeypatch: pytest.MonkeyPatch, lengths: Lengths, *, zero_variance_at: int = -1) -> FakeRollout:
    return FakeRollout(
        monkeypatch, rewards=lambda at: (1.0, 1.0) if at == zero_variance_at else (1.0, 0.0), lengths=lengths
    )


def test_what_has_arrived_is_scored_while_the_slowest_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the first batch (0 to 3); 4 to 7 belong to the next, whose weights are others.
    lengths = [2, 20, 5, 3, 1, 1, 1, 1]
    rollout = rollout_of(monkeypatch, lambda position: lengths[position])
    learner = Learner(rollout, monkeypatch, ticks=1.0)
    stream = stream_of(rollout, learner)
    stream.admit(0)
    stream.take(0)
    assert learner.calls == [(2.0, [2]), (3.0, [3]), (5.0, [5])]
    stream.take(1)
    assert len(learner.calls) == 3, "all had arrived: there is nothing to wait for, load() does it in one"


def test_what_arrives_while_the_ranks_are_at_work_is_their_next_call_even_if_nothing_else_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [2, 3, 4, 50, 60, 60, 60, 60]
    rollout = rollout_of(monkeypatch, lambda position: lengths[position])
    learner = Learner(rollout, monkeypatch, ticks=10.0)
    stream = stream_of(rollout, learner)
    stream.admit(0)
    stream.take(0)
    assert learner.calls == [(2.0, [2]), (12.0, [3, 4])], "at 12 no group arrives, but the ranks are free"


def test_the_rest_is_scored_while_a_zero_variance_group_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [2, 2, 2, 2, 90, 90, 90, 90, 30]
    rollout = rollout_of(monkeypatch, lambda position: lengths[position], zero_variance_at=1)
    learner = Learner(rollout, monkeypatch, ticks=1.0)
    resampling = Resampling(has_gradient=lambda graded: graded.position != 1, max_attempts=1)
    stream = stream_of(rollout, learner, resampling=resampling)
    stream.admit(0)
    assert [graded.position for graded in stream.take(0)] == [0, 8, 2, 3]
    assert learner.calls == [(2.0, [2, 2, 2])]


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_who_finishes_first_score_only_what_they_train(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    lengths = rng.sample(range(1, 200), 60)  # all different, so that a length tells the group
    rollout = rollout_of(monkeypatch, lambda position: lengths[position])
    learner = Learner(rollout, monkeypatch, ticks=3.0)
    stream = stream_of(rollout, learner, buffer=FinishedBuffer(PROMPTS, max_staleness=2), num_iterations=8)
    num_scored = 0
    for iteration in range(8):
        stream.admit(iteration)
        batch = {graded.group.completions[0].tokens.num_sampled for graded in stream.take(iteration)}
        scored = [length for _, call in learner.calls for length in call]
        learner.calls.clear()
        assert len(scored) == len(set(scored))
        assert set(scored) <= batch
        num_scored += len(scored)
        rollout.learn()
    assert num_scored >= 8


@pytest.mark.parametrize(
    ("max_staleness", "scores_batches", "ahead"), [(1, True, True), (0, True, False), (1, False, False)]
)
def test_a_synchronous_run_and_one_without_forward_passes_score_nothing_ahead(
    max_staleness: int, scores_batches: bool, ahead: bool
) -> None:
    learner: Any = SimpleNamespace(spec=SimpleNamespace(scores_batches=scores_batches))
    assert isinstance(dispatcher_for(learner, max_staleness=max_staleness), ScoreDispatcher) == ahead


def test_groups_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = rollout_of(monkeypatch, lambda position: position + 1)
    learner = Learner(rollout, monkeypatch, ticks=0.0)
    scoring = ScoreDispatcher(learner)
    rollout.submit(rollout.prompt_at(0), SAMPLING, due=0)
    (finished,) = rollout.await_finished(at_most_s=1.0)
    group: PromptGroup = finished.group_ref
    assert not scoring.offer({})
    for _ in range(2):
        assert not scoring.offer({0: group})
    assert len(learner.calls) == 1
