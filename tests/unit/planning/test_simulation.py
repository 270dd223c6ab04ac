"""The simulated run against closed forms, and the bound that the real admission rule keeps."""

from dataclasses import replace

import pytest

from planning.costs import Costs, EngineCosts, LearnerCosts, PublishCosts, WireCosts
from planning.simulation import SimulatedRun, Workload, predict

STEP_S, SEQUENCE_S, LENGTH = 0.01, 0.001, 20
WORKLOAD = Workload(
    prompts_per_iteration=4,
    completions_per_prompt=2,
    prompt_length=5,
    lengths=(LENGTH,),
    max_staleness=0,
    publishes_inflight=True,
    num_engines=1,
    workers_per_engine=1,
    max_sequences=64,
    kv_tokens=10**6,
    num_ranks=1,
    num_minibatches=2,
    num_epochs=1,
    max_tokens=1024,
    zero_stage=0,
    recomputes_logprobs=False,
    keeps_reference=False,
    num_graders=1,
    num_parameters=1000,
    learner_weight_bytes=4,
    wire_weight_bytes=4,
)
COSTS = Costs(
    engine=EngineCosts(
        step_s=STEP_S,
        sequence_s=SEQUENCE_S,
        context_token_s=0.0,
        prompt_token_s=0.0,
        group_s=0.0,
        burst_s=0.0,
        block_tokens=16,
    ),
    learner=LearnerCosts(
        load_s=0.02, sample_s=0.0, step_s=0.1, row_s=0.0, sequence_s=0.0, token_s=1e-3, pair_s=0.0, scoring_share=0.3
    ),
    wire=WireCosts(byte_s=1e-5, network_byte_s=1e-4, devices_per_node=8),
    publish=PublishCosts(fixed_s=0.03, by_tree=False),
    grade_s=0.0,
    iteration_s=0.005,
    rates=(),
)
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
    assert found.engines_busy == pytest.approx(GENERATE_S / found.iteration_s)


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
    assert found.engines_busy == pytest.approx(LENGTH * 0.5 / (LENGTH * 0.5 + PUBLISH_S), rel=0.01)


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("publishes_inflight", [True, False])
def test_the_bound_is_reached_and_never_exceeded(max_staleness: int, publishes_inflight: bool) -> None:
    workload = with_lengths(
        1, 2, 3, 50, 400, max_staleness=max_staleness, publishes_inflight=publishes_inflight, num_engines=2
    )
    run = SimulatedRun(workload, COSTS, num_iterations=30, seed=3)
    iterations, _ = run.simulate(counted_from=0)
    assert max(each.max_staleness for each in iterations) == max_staleness
    assert all(each.max_staleness >= 0 for each in iterations)


def test_shared_cores_slow_down_what_overlaps_and_nothing_else() -> None:
    shared = replace(COSTS, rates=(1.0, 0.5))
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
    assert found.generate_s == pytest.approx(GENERATE_S + 4 * 2 * 0.5)
    assert predict(replace(WORKLOAD, num_graders=4), graded).generate_s == pytest.approx(GENERATE_S + 2 * 0.5)


def test_long_completions_keep_the_batch_waiting_at_small_batches() -> None:
    # 8 sequences of 1 token, then those of 100 alone: two closed-form segments
    workload = with_lengths(1, prompts_per_iteration=1)
    run = SimulatedRun(workload, COSTS, num_iterations=1, seed=0)
    iterations, _ = run.simulate(counted_from=0)
    assert iterations[0].generate_s == pytest.approx(STEP_S + 2 * SEQUENCE_S)


def test_seats_and_cache_limit_the_batch() -> None:
    halves = 2 * LENGTH * (STEP_S + NUM_SEQUENCES / 2 * SEQUENCE_S)
    assert predict(replace(WORKLOAD, max_sequences=4), COSTS).generate_s == pytest.approx(halves)
    assert predict(replace(WORKLOAD, kv_tokens=4 * (5 + LENGTH)), COSTS).generate_s == pytest.approx(halves)


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
