"""Batches under a fake clock: which prompts they hold, how old their tokens are, what a resume goes on with."""

import random

import numpy as np
import pytest
from fake_rollout import FakeRollout, Lengths, Rewards
from hypothesis import given
from hypothesis import strategies as st

from orchestration.checkpoints.state import RunState
from orchestration.stream.finished_order import LOOKAHEAD, FinishedBuffer
from orchestration.stream.group_metrics import group_metrics
from orchestration.stream.group_stream import ArrivedGroup, GroupStream, Resampling
from orchestration.stream.order import Admission
from orchestration.stream.prompt_order import GroupBuffer
from rollout.contract import GradedGroup, SamplingSpec

PROMPTS = 4
ITERATIONS = 12
SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=99, temperature=1.0, seed=0)
Batches = list[list[GradedGroup]]


def teaching(_: int) -> tuple[float, float]:
    return (1.0, 0.0)


def uneven(position: int) -> int:
    """Most groups take 2 to 4 tokens, some 12 and a few 30."""
    return 30 if position % 17 == 3 else 12 if position % 5 == 1 else 2 + position % 3


def differs(graded: GradedGroup) -> bool:
    return bool(np.ptp(graded.rewards) > 0.0)


def stream_of(
    rollout: FakeRollout, state: RunState, *, max_staleness: int, finished_first: bool = False, max_attempts: int = 0
) -> GroupStream:
    """max_attempts: of dynamic sampling; 0 is without."""
    buffer: GroupBuffer[ArrivedGroup] | FinishedBuffer[ArrivedGroup] = (
        FinishedBuffer(PROMPTS, max_staleness=max_staleness, start_iteration=state.iteration)
        if finished_first
        else GroupBuffer(PROMPTS, start_iteration=state.iteration)
    )
    return GroupStream(
        rollout,  # type: ignore[arg-type]
        rollout,  # type: ignore[arg-type]
        SAMPLING,
        admission=Admission(
            prompts_per_iteration=PROMPTS, max_staleness=LOOKAHEAD if finished_first else max_staleness
        ),
        buffer=buffer,
        resampling=Resampling(has_gradient=differs, max_attempts=max_attempts) if max_attempts else None,
        scoring=None,
        start_iteration=state.iteration,
        start_positions=state.positions,
        num_iterations=ITERATIONS,
        counts_failures=False,
    )


def iterate(stream: GroupStream, rollout: FakeRollout, state: RunState, *, until: int = ITERATIONS) -> Batches:
    """The loop's calls; every batch's staleness is checked by group_metrics and returned with it."""
    batches = []
    rollout.version = state.policy_version
    for iteration in range(state.iteration, until):
        stream.admit(rollout.version)
        batches.append(stream.take(iteration))
        rollout.learn()
        rollout.version += 1
    return batches


def indices(batches: Batches) -> list[list[int]]:
    return [[graded.position for graded in batch] for batch in batches]


def staleness(batches: Batches, *, start: int = 0) -> list[float]:
    return [group_metrics(batch, policy_version=start + k)["staleness/max"] for k, batch in enumerate(batches)]


def fresh_run(
    monkeypatch: pytest.MonkeyPatch, *, rewards: Rewards = teaching, lengths: Lengths = uneven, **settings: int
) -> tuple[FakeRollout, GroupStream, Batches]:
    rollout = FakeRollout(monkeypatch, rewards=rewards, lengths=lengths)
    state = RunState.fresh()
    stream = stream_of(rollout, state, **settings)  # type: ignore[arg-type]
    return rollout, stream, iterate(stream, rollout, state)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_prompt_order_wastes_nothing_and_keeps_the_bound(monkeypatch: pytest.MonkeyPatch, max_staleness: int) -> None:
    rollout, stream, batches = fresh_run(monkeypatch, max_staleness=max_staleness)
    assert indices(batches) == [list(range(4 * k, 4 * k + 4)) for k in range(ITERATIONS)]
    assert max(staleness(batches)) == max_staleness
    assert sorted(rollout.versions_of) == list(range(4 * ITERATIONS)), "what is generated is trained"
    assert all(due == position // 4 for position, due in rollout.due_of.items())
    assert stream.positions().open == ()
    assert "group/replaced" not in stream.summary()


@pytest.mark.parametrize("max_staleness", [2, 4])
def test_finished_order_lets_long_groups_go_on_into_later_batches(
    monkeypatch: pytest.MonkeyPatch, max_staleness: int
) -> None:
    rollout, _, batches = fresh_run(monkeypatch, max_staleness=max_staleness, finished_first=True)
    trained = [index for batch in indices(batches) for index in batch]
    assert sorted(trained) == list(range(4 * ITERATIONS)), "each prompt once, none dropped"
    assert indices(batches)[0] == [0, 2, 4, 7], "1, 3 and 6 are long; 4 and 7 were admitted one version ahead"
    assert max(staleness(batches)) == max_staleness
    long = next(graded for batch in batches for graded in batch if graded.position == 3)
    assert len(long.group.completions[0].tokens.version_starts) == max_staleness + 1, (
        "it went on under each next version"
    )
    ordered, _, _ = fresh_run(monkeypatch, max_staleness=1)
    assert rollout.now < ordered.now, "with the same lookahead the learner waits less for stragglers"


@given(max_staleness=st.integers(2, 5), seed=st.integers(0, 10_000), start=st.integers(0, 3))
def test_finished_order_never_exceeds_the_bound(max_staleness: int, seed: int, start: int) -> None:
    rng = random.Random(seed)
    state = RunState(iteration=start, policy_version=start, positions=FRESH_POSITIONS)
    with pytest.MonkeyPatch.context() as patch:
        rollout = FakeRollout(patch, rewards=teaching, lengths=lambda position: drawn[position])
        drawn = [rng.choice([1, 2, 3, 10, 60]) for _ in range(PROMPTS * (ITERATIONS + 2))]
        batches = iterate(stream_of(rollout, state, max_staleness=max_staleness, finished_first=True), rollout, state)
    assert max(staleness(batches, start=start)) <= max_staleness
    trained = sorted(index for batch in indices(batches) for index in batch)
    assert trained == list(range(PROMPTS * (ITERATIONS - start)))


FRESH_POSITIONS = RunState.fresh().positions


def zero_variance_at(*positions: int) -> Rewards:
    return lambda position: (1.0, 1.0) if position in positions else (1.0, 0.0)


def test_groups_without_a_gradient_are_replaced_round_by_round_by_the_next_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 1 and 3 teach nothing; 4 and 5 take their places, of which 5 does not either, so 6 does.
    rollout, stream, batches = fresh_run(
        monkeypatch, rewards=zero_variance_at(1, 3, 5, 8), max_staleness=0, max_attempts=3
    )
    assert indices(batches)[:3] == [[0, 4, 2, 6], [7, 11, 9, 10], [12, 13, 14, 15]]
    assert all(differs(graded) for batch in batches for graded in batch), "every batch is full of what teaches"
    assert max(staleness(batches)) == 0
    assert stream.summary()["group/replaced"] == 0
    assert rollout.events[4:7] == ["submit 4", "submit 5", "submit 6"]
    assert {rollout.due_of[position] for position in range(7)} == {0}


def test_replacing_ends_after_the_attempts_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = FakeRollout(monkeypatch, rewards=zero_variance_at(*range(1000)), lengths=uneven)
    stream = stream_of(rollout, RunState.fresh(), max_staleness=0, max_attempts=2)
    (batch,) = iterate(stream, rollout, RunState.fresh(), until=1)
    assert [graded.position for graded in batch] == [8, 9, 10, 11], "filled with what there is"
    assert (stream.summary()["group/replaced"], stream.summary()["group/attempts"]) == (8, 2)


@pytest.mark.parametrize(
    ("max_staleness", "finished_first"), [(0, False), (2, False), (3, True)], ids=["synchronous", "ahead", "finished"]
)
def test_a_resume_goes_on_with_the_prompts_that_the_run_would_have_taken(
    monkeypatch: pytest.MonkeyPatch, max_staleness: int, finished_first: bool
) -> None:
    def settings(rewards: Rewards, state: RunState) -> tuple[FakeRollout, GroupStream]:
        rollout = FakeRollout(monkeypatch, rewards=rewards, lengths=uneven)
        stream = stream_of(rollout, state, max_staleness=max_staleness, finished_first=finished_first, max_attempts=2)
        return rollout, stream

    rewards = zero_variance_at(*range(0, 300, 3))
    state = RunState.fresh()
    rollout, stream = settings(rewards, state)
    before = iterate(stream, rollout, state, until=5)
    for _ in before:
        state = state.advance(stream.positions())
    resumed_rollout, resumed = settings(rewards, RunState.from_json(state.to_json()))
    after = iterate(resumed, resumed_rollout, state)

    assert max(staleness(after, start=5)) <= max_staleness
    trained = [index for batch in indices([*before, *after]) for index in batch]
    assert len(set(trained)) == len(trained) == PROMPTS * ITERATIONS, "none twice"
    left = set(state.positions.open)
    assert left <= set(resumed_rollout.versions_of), "what was in flight is generated again"
    generated = set(rollout.versions_of) | set(resumed_rollout.versions_of)
    assert generated == set(range(len(generated))), "no position of the stream is skipped"
    if max_staleness == 0:
        undisturbed, stream = settings(rewards, RunState.fresh())
        assert indices(iterate(stream, undisturbed, RunState.fresh())) == indices([*before, *after])
