"""The simulated run against closed forms, and the bound that the real admission rule keeps."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from plan_fixtures import COSTS, LENGTH, SEQUENCE_S, STEP_S, WORKLOAD

from orchestration.plan import simulation
from orchestration.plan.costs import Workload
from orchestration.plan.simulation import FakeClock, SimulatedEngine, SimulatedGroup, SimulatedRun, predict
from orchestration.stream.finished_order import LOOKAHEAD
from rollout.contract import EngineRoom
from rollout.fleets.feeding import Feeder

NUM_SEQUENCES = 8
GENERATE_S = LENGTH * (STEP_S + NUM_SEQUENCES * SEQUENCE_S)
LEARN_S = 0.02 + 2 * 0.1 + NUM_SEQUENCES * (5 + LENGTH) * 1e-3
PUBLISH_S = 0.03 + 4000 * 1e-5
REST_S = 0.005


def with_lengths(*lengths: int, **changes: object) -> Workload:
    return replace(WORKLOAD, lengths=lengths, **changes)  # type: ignore[arg-type]


def test_a_synchronous_iteration_is_the_sum_of_its_stages() -> None:
    found = predict(WORKLOAD, COSTS)
    assert found.iteration_s == pytest.approx(GENERATE_S + LEARN_S + PUBLISH_S + REST_S)
    assert found.generate_s == pytest.approx(GENERATE_S)
    assert found.update_s + found.load_s == pytest.approx(LEARN_S)
    assert found.publish_s == pytest.approx(PUBLISH_S)


def test_an_asynchronous_iteration_of_a_slow_learner_hides_generation() -> None:
    slow = replace(COSTS, learner=replace(COSTS.learner, step_s=1.0))
    found = predict(replace(WORKLOAD, max_staleness=1), slow)
    assert found.iteration_s == pytest.approx(LEARN_S + 1.8 + PUBLISH_S + REST_S)
    assert found.wait_s == pytest.approx(0.0)


def test_an_asynchronous_iteration_of_slow_engines_hides_the_learner() -> None:
    slow = replace(COSTS, engine=replace(COSTS.engine, step_s=0.5, sequence_s=0.0))
    found = predict(replace(WORKLOAD, max_staleness=2, max_sequences=NUM_SEQUENCES), slow)
    # engines stand still for a publish, and go on while the learner computes and the driver writes
    assert found.iteration_s == pytest.approx(LENGTH * 0.5 + PUBLISH_S, rel=0.01)


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("publishes_inflight", [True, False])
def test_the_bound_is_reached_and_never_exceeded(max_staleness: int, publishes_inflight: bool) -> None:
    workload = with_lengths(
        1, 2, 3, 50, 400, max_staleness=max_staleness, publishes_inflight=publishes_inflight, num_engines=2
    )
    run = SimulatedRun(workload, COSTS, seed=3)
    run.simulate(30)
    assert len(run.staleness) == 30
    assert max(run.staleness) == max_staleness
    assert min(run.staleness) >= 0


@pytest.mark.parametrize("max_staleness", [2, 3])
def test_batches_of_what_finishes_first_wait_less_and_keep_the_bound(max_staleness: int) -> None:
    workload = with_lengths(*[5] * 30, 1000, max_staleness=max_staleness, prompts_per_iteration=8, num_engines=2)
    quick = replace(COSTS, learner=replace(COSTS.learner, step_s=0.01, token_s=1e-5))
    by_prompt = predict(replace(workload, max_staleness=LOOKAHEAD), quick, num_iterations=40)
    by_finish = predict(replace(workload, batch_order="finished"), quick, num_iterations=40)
    run = SimulatedRun(replace(workload, batch_order="finished"), quick, seed=0)
    run.simulate(40)
    assert max(run.staleness) <= max_staleness
    assert by_finish.wait_s < 0.9 * by_prompt.wait_s


def test_shared_cores_slow_down_what_overlaps_and_nothing_else() -> None:
    shared = replace(COSTS, pair_rate=0.5)
    assert predict(WORKLOAD, shared).iteration_s == pytest.approx(
        predict(WORKLOAD, COSTS).iteration_s  # engine and learner take turns
    )
    overlapping = replace(WORKLOAD, max_staleness=1)
    alone_s = GENERATE_S + LEARN_S + REST_S + PUBLISH_S
    assert predict(overlapping, shared).iteration_s == pytest.approx(alone_s, rel=0.02)
    assert predict(overlapping, COSTS).iteration_s < 0.75 * alone_s


def test_grading_one_group_at_a_time_delays_the_batch() -> None:
    graded = replace(COSTS, grade_s=0.5)
    found = predict(WORKLOAD, graded)
    assert found.wait_s == pytest.approx(GENERATE_S + 4 * 2 * 0.5)
    assert found.generate_s == pytest.approx(GENERATE_S)
    assert predict(replace(WORKLOAD, num_graders=4), graded).wait_s == pytest.approx(GENERATE_S + 2 * 0.5)


def engine_times(*lengths: int, freeze: tuple[float, float] | None = None, context_token_s: float = 0.0) -> list[float]:
    """When each of the groups of one completion, all submitted at 0, is done; freeze: from and for how long."""
    clock, done = FakeClock(lambda num_busy: 1.0), {}
    engine = SimulatedEngine(
        costs=replace(COSTS.engine, context_token_s=context_token_s),
        clock=clock,
        room=EngineRoom(num_sequences=8, kv_tokens=10**6),
        on_change=lambda groups: done.update({group.admission_index: clock.now for group in groups}),
        version=0,
    )
    for index, length in enumerate(lengths):
        engine.submit(SimulatedGroup(admission_index=index, prompt_length=5, lengths=(length,)))
    if freeze is not None:
        began, lasted = freeze
        clock.after(began, engine.freeze)
        clock.after(began + lasted, lambda: engine.resume(1))
    clock.run_until(lambda: len(done) == len(lengths))
    return [done[index] for index in range(len(lengths))]


def test_a_batch_that_shrinks_takes_the_time_of_each_of_its_sizes() -> None:
    one_left = 60 * (STEP_S + SEQUENCE_S)
    two_left = 30 * (STEP_S + 2 * SEQUENCE_S)
    three = 10 * (STEP_S + 3 * SEQUENCE_S)
    expected = [three, three + two_left, three + two_left + one_left]
    assert engine_times(10, 40, 100) == pytest.approx(expected)


def test_looking_back_costs_more_with_every_token() -> None:
    context_token_s = 1e-4
    looked_back = sum(5 + place for place in range(30))
    assert engine_times(30, context_token_s=context_token_s) == pytest.approx(
        [30 * (STEP_S + SEQUENCE_S) + context_token_s * looked_back]
    )


@pytest.mark.parametrize("began", [0.003, 0.1234, 0.33])
def test_a_publish_delays_completions_by_its_duration_and_loses_no_step(began: float) -> None:
    undisturbed = engine_times(10, 40, 100, context_token_s=1e-5)
    delayed = engine_times(10, 40, 100, freeze=(began, 0.5), context_token_s=1e-5)
    expected = [time + (0.5 if time > began else 0.0) for time in undisturbed]
    assert delayed == pytest.approx(expected)


def test_seats_and_cache_limit_the_batch() -> None:
    halves = 2 * LENGTH * (STEP_S + NUM_SEQUENCES / 2 * SEQUENCE_S)
    assert predict(replace(WORKLOAD, max_sequences=4), COSTS).generate_s == pytest.approx(halves)
    assert predict(replace(WORKLOAD, kv_tokens=4 * (5 + LENGTH)), COSTS).generate_s == pytest.approx(halves)


def test_prompts_go_where_the_fleets_feeder_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assigned: list[tuple[int, int]] = []

    class RecordingFeeder(Feeder):
        def assign(self) -> Iterator[tuple[int, int]]:
            for engine, ticket in super().assign():
                assigned.append((engine, ticket))
                yield engine, ticket

    monkeypatch.setattr(simulation, "Feeder", RecordingFeeder)
    # places for one group and a group's backlog: what is held back goes to the engine whose group is done first
    workload = with_lengths(5, 80, num_engines=2, max_sequences=2, prompts_per_iteration=12)
    run = SimulatedRun(workload, COSTS, seed=0)
    run.simulate(1)
    assert [ticket for _, ticket in assigned[:12]] == list(range(12))
    assert [engine for engine, _ in assigned[:4]] == [0, 1, 0, 1]
    assert {engine for engine, _ in assigned[4:]} == {0, 1}
    assert [engine for engine, _ in assigned[:12]] != [0, 1] * 6


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_more_of_anything_never_makes_an_iteration_longer(max_staleness: int) -> None:
    workload = with_lengths(4, 20, 100, max_staleness=max_staleness, prompts_per_iteration=16)
    few = predict(workload, COSTS).iteration_s
    for more in ({"num_engines": 2}, {"num_engines": 4}, {"num_graders": 4}, {"max_sequences": 256}):
        assert predict(replace(workload, **more), COSTS).iteration_s <= few * 1.001  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["prompts_per_iteration", "completions_per_prompt", "num_epochs"])
def test_more_work_takes_longer(change: str) -> None:
    doubled = replace(WORKLOAD, **{change: 2 * getattr(WORKLOAD, change)})
    assert predict(doubled, COSTS).iteration_s > 1.1 * predict(WORKLOAD, COSTS).iteration_s


def test_equal_seeds_give_equal_predictions() -> None:
    workload = with_lengths(1, 20, 100)
    assert predict(workload, COSTS, seed=1) == predict(workload, COSTS, seed=1)
    assert predict(workload, COSTS, seed=1) != predict(workload, COSTS, seed=2)
