"""The grader pool on a real Ray: right verdicts, a hang that costs one completion only, and no process left behind."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from support import wait_until
from verdicts import verdict_of

from benchmarks.grading import ungraded_group
from configs.graders import GradersConfig
from configs.rewards import ExtraRewardConfig, RewardConfig
from rollout.contract import PromptGroup
from rollout.rewards.child import GraderChild
from rollout.rewards.functions import make_reward
from rollout.rewards.graders import GraderPool, GradingError, await_verdicts

pytestmark = pytest.mark.integration

TRAPS = "grader_traps:make"
GRADE = make_reward(RewardConfig().model_dump(mode="json"), lambda name, verdict: None)
RIGHT, WRONG = "<think>a</think><answer>42</answer>", "<think>a</think><answer>41</answer>"


def group(*texts: str) -> PromptGroup:
    return ungraded_group(*texts, reference="42")


def is_running(process_id: int) -> bool:
    """Whether the process exists and is no zombie, whose command line reads empty."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(process_id: int) -> bool:
    """Whether the process ends within a while."""
    return wait_until(lambda: not is_running(process_id))


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraderChild]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    grader = GraderChild(GradersConfig(timeout_s=1.0), reward=RewardConfig(), reward_factory=TRAPS)
    yield grader
    grader.close()


def process_id_of(grader: GraderChild) -> int:
    (verdict,) = grader.grade(["process id"], reference_answer="42")
    assert verdict is not None
    return int(verdict.value("pid"))


def test_child_grades_in_order_and_survives_from_group_to_group(child: GraderChild) -> None:
    first = process_id_of(child)
    texts = [RIGHT, WRONG, "", "x\n\u2028\ud800"]
    assert child.grade(texts, reference_answer="42") == [GRADE(text, "42") for text in texts]
    assert child.grade([], reference_answer="42") == []
    assert process_id_of(child) == first


@pytest.mark.parametrize("trap", ["hang", "hang in C", "eat memory"])
def test_child_that_meets_a_limit_is_replaced_within_it(child: GraderChild, trap: str) -> None:
    first = process_id_of(child)
    start = time.monotonic()
    verdicts = child.grade([RIGHT, trap, RIGHT], reference_answer="42")
    right = verdict_of(format=1.0, answer=1.0)
    assert verdicts == [right, None, right]
    assert time.monotonic() - start < 1.0 + 60.0  # the limit and a new child's start on a busy machine
    assert not is_running(first)
    assert child.grade([RIGHT], reference_answer="42") == [verdict_of(format=1.0, answer=1.0)]


def test_child_that_died_between_groups_is_replaced_at_no_cost(child: GraderChild) -> None:
    first = process_id_of(child)
    os.kill(first, signal.SIGKILL)
    assert ends(first)
    assert len(child.grade([RIGHT, WRONG], reference_answer="42")) == 2


def test_defect_of_the_reward_function_is_an_error_not_a_zero(child: GraderChild) -> None:
    message = "^grader_traps:make: the reward ended .* status 1; its last line of output: ValueError: a defect of"
    with pytest.raises(GradingError, match=message):
        child.grade([RIGHT, "raise"], reference_answer="42")


def test_child_without_its_reward_function_does_not_start() -> None:
    grader = GraderChild(GradersConfig(), reward=RewardConfig(), reward_factory="no.such:function")
    message = (
        r"^the process of a grader ended .* while starting; its last line of output: ModuleNotFoundError: No module"
    )
    with pytest.raises(GradingError, match=message):
        grader.grade([RIGHT], reference_answer="42")
    grader.close()


@pytest.mark.timeout(300)
def test_pool_grades_many_groups_and_a_hang_costs_one_only(shared_ray: None) -> None:
    pool = GraderPool(GradersConfig(num_workers=2, timeout_s=1.0), reward=RewardConfig(), reward_factory=TRAPS)
    references = [pool.grade(ray.put(group(RIGHT, WRONG, ""))) for _ in range(10)]
    references.append(pool.grade(group(RIGHT, "hang in C", RIGHT)))
    references += [pool.grade(group("process id")) for _ in range(4)]
    results = await_verdicts(references)
    for result in results[:10]:
        assert result.verdicts == tuple(GRADE(text, "42") for text in (RIGHT, WRONG, ""))
        assert result.timed_out == 0
    assert [verdict.total for verdict in results[10].verdicts] == [2.0, 0.0, 2.0]
    assert results[10].timed_out == 1
    children = {int(result.verdicts[0].value("pid")) for result in results[11:]}
    assert len(children) == 2  # both workers are used
    spans = pool.drain_spans()
    assert spans == (), "the first call asks only"

    def has_told_of_both() -> bool:
        nonlocal spans
        spans += pool.drain_spans()
        return len({span.track for span in spans}) == 2

    assert wait_until(has_told_of_both)
    assert {(span.track, span.name) for span in spans} == {("grader 0", "grade"), ("grader 1", "grade")}
    assert max(span.end_s - span.start_s for span in spans) >= 1.0, "the hang, up to its limit"
    pool.close()
    assert all(map(ends, children))
    pool.close()


def processor_time_s(process_id: int) -> float:
    return psutil.Process(process_id).cpu_times().user


def child_of(pool: GraderPool) -> psutil.Process:
    """The process that grades; its parent is its supervisor, whose parent is the actor."""
    (result,) = await_verdicts([pool.grade(group("process id"))])
    return psutil.Process(int(result.verdicts[0].value("pid")))


@pytest.mark.timeout(300)
def test_graders_that_die_or_get_stuck_are_replaced_and_their_groups_graded(shared_ray: None) -> None:
    faults: list[str] = []
    pool = GraderPool(
        GradersConfig(timeout_s=1.0),
        reward=RewardConfig(),
        reward_factory=TRAPS,
        on_fault=lambda line, cause: faults.append(line),
    )
    expected = tuple(GRADE(text, "42") for text in (RIGHT, WRONG))
    for moment in ("idle", "waiting", "waiting", "busy", "stuck"):
        child = child_of(pool)
        actor = child.parents()[1]
        if moment == "stuck":
            actor.suspend()
        if moment == "idle":
            actor.kill()
            assert ends(actor.pid)
        at_rest_s = processor_time_s(child.pid) if moment == "busy" else 0.0
        graded = [pool.grade(group("hang in C"))] if moment == "busy" else []
        graded += [pool.grade(group(RIGHT, WRONG)) for _ in range(3)]
        if moment == "busy":
            assert wait_until(lambda child=child, least_s=at_rest_s + 0.1: processor_time_s(child.pid) > least_s)
        if moment in ("waiting", "busy"):
            actor.kill()
        results = await_verdicts(graded)
        assert all(result.verdicts == expected and not result.timed_out for result in results[-3:])
        assert ends(actor.pid), moment
        assert ends(child.pid), moment
    died = "grader 0 died; a new one takes its place; groups graded again: "
    assert [fault[: len(died)] for fault in faults[:4]] == [died] * 4
    assert faults[4:] == ["grader 0 has not answered for 6 s; a new one takes its place; groups graded again: 3"]
    pool.close()


def extras(*, on_error: str, **functions: str) -> RewardConfig:
    return RewardConfig(
        extra={
            name: ExtraRewardConfig(function=f"grader_traps:{function}", weight=2.0)
            for name, function in functions.items()
        },
        on_error=on_error,  # type: ignore[arg-type]
    )


FAILURES = {
    "raise": "reward.extra.own raised KeyError: 'no such thing'",
    "nan": "reward.extra.own gave nan, not a finite number",
    "text": "reward.extra.own gave '1.0', not a finite number",
    "hang": "reward.extra.own met its limit of graders.timeout_s=1 s",
}


@pytest.mark.timeout(300)
def test_failing_extra_reward_is_a_named_error(shared_ray: None) -> None:
    pool = GraderPool(GradersConfig(timeout_s=1.0), reward=extras(on_error="raise", fine="half", own="faulty"))
    for failure, message in FAILURES.items():
        with pytest.raises(GradingError, match="^" + re.escape(f"prompt 0: {message}")):
            await_verdicts([pool.grade(group(RIGHT, failure, WRONG))])
    assert await_verdicts([pool.grade(group(RIGHT))])[0].verdicts[0].total == 5.0
    pool.close()


@pytest.mark.timeout(300)
def test_failing_extra_reward_is_a_counted_zero_where_asked(shared_ray: None) -> None:
    pool = GraderPool(GradersConfig(timeout_s=1.0), reward=extras(on_error="zero", fine="half", own="faulty"))
    graded = pool.grade(group(RIGHT, "raise", "nan", "hang", WRONG))
    (result,) = await_verdicts([graded])
    assert [verdict.values for verdict in result.verdicts] == [
        {"format": 1.0, "answer": 1.0, "fine": 0.5, "own": 1.0},
        {"format": 0.0, "answer": 0.0, "fine": 0.5, "own": 0.0},
        {"format": 0.0, "answer": 0.0, "fine": 0.5, "own": 0.0},
        {"format": 0.0, "answer": 0.0, "fine": 0.5, "own": 0.0},
        {"format": 1.0, "answer": 0.0, "fine": 0.5, "own": 1.0},
    ]
    assert [verdict.total for verdict in result.verdicts] == [5.0, 1.0, 1.0, 1.0, 4.0]
    assert (result.num_failed, result.timed_out) == (3, 0)
    pool.close()


def test_an_extra_reward_that_hangs_costs_neither_format_nor_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    reward = extras(on_error="zero", fine="half", own="hanging", last="half")
    grader = GraderChild(GradersConfig(timeout_s=1.0), reward=reward)
    first, second = grader.grade([RIGHT, WRONG], reference_answer="42")
    grader.close()
    own = {"fine": 0.5, "own": 0.0, "last": 0.0}
    assert first is not None
    assert second is not None
    assert first.values == {"format": 1.0, "answer": 1.0, **own}
    assert second.values == {"format": 1.0, "answer": 0.0, **own}
    assert (first.num_failed, second.num_failed) == (2, 2)
