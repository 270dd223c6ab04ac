"""When a grader counts as stuck."""

from rollout.rewards.watch import ANSWER_MARGIN_S, PROGRESS_MARGIN_S, START_TIMEOUT_S, Watch

TIMEOUT_S = 600.0


def after(watch: Watch, seconds: float) -> str | None:
    """The first complaint within these seconds."""
    return next((found for _ in range(int(seconds)) if (found := watch.complaint(1.0))), None)


def started() -> Watch:
    watch = Watch(timeout_s=TIMEOUT_S)
    watch.heard(0)
    return watch


def test_a_grader_that_does_not_answer_is_noticed_within_one_completions_limit() -> None:
    limit_s = TIMEOUT_S + ANSWER_MARGIN_S
    watch = started()
    assert after(watch, limit_s - 1) is None
    assert after(watch, 1) == f"has not answered for {limit_s:g} s"


def test_a_grader_has_longer_for_its_first_answer() -> None:
    watch = Watch(timeout_s=1.0)
    assert after(watch, START_TIMEOUT_S - 1) is None
    assert after(watch, 1) == f"has not started for {START_TIMEOUT_S:g} s"


def test_a_grader_that_answers_and_does_not_get_on_is_noticed_too() -> None:
    watch = started()
    for _ in range(int(TIMEOUT_S + PROGRESS_MARGIN_S) - 1):
        watch.heard(0)
        assert watch.complaint(1.0) is None
    assert watch.complaint(1.0) == f"has graded nothing for {TIMEOUT_S + PROGRESS_MARGIN_S:g} s"


def test_a_grader_that_gets_on_may_take_as_long_as_it_likes() -> None:
    watch = started()
    for progress in range(20):
        watch.heard(progress)
        assert after(watch, TIMEOUT_S) is None
    watch.finished()
    assert after(watch, TIMEOUT_S) is None
