"""Who is blamed and how an error reads, without a Ray that runs."""

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from transfer.answers import Answers, reason


def raised(text: str) -> RayTaskError:
    return RayTaskError("call", "Traceback (most recent call last) ...", ValueError(text))


def test_an_actors_own_exception_reads_as_one_line_without_the_traceback() -> None:
    assert reason(raised("out of\n  memory")) == "ValueError: out of memory"


def test_an_error_of_ray_itself_is_told_with_its_type() -> None:
    assert reason(ActorDiedError()).startswith("ActorDiedError: The actor died")
    assert "\n" not in reason(ActorDiedError())


@pytest.mark.parametrize(
    ("failures", "blamed"),
    [
        ({}, []),
        ({2: raised("connection reset"), 0: raised("connection reset")}, [2, 0]),
        ({2: raised("connection reset"), 0: ActorDiedError(), 1: ActorDiedError()}, [0, 1]),
    ],
)
def test_the_dead_are_blamed_rather_than_those_they_left(failures: dict[int, RayError], blamed: list[int]) -> None:
    assert list(Answers(results={}, failures=failures, silent=()).blamed) == blamed
