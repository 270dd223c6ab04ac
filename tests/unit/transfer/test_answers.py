"""Who is blamed and how an error reads, without a Ray that runs."""

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError, RayTaskError

from transfer.answers import Answers, PeerStuck, as_death, is_death, reason


def raised(text: str) -> RayTaskError:
    return RayTaskError("call", "Traceback (most recent call last) ...", ValueError(text))


def test_an_actors_own_exception_reads_as_one_line_without_the_traceback() -> None:
    assert reason(raised("out of\n  memory")) == "ValueError: out of memory"


UNHAPPY_END = "Traceback (most recent call last):\n  File engine.py, in __init__\nValueError: no such model\n"


def died(text: str, *, pid: int = 71, ip: str = "10.0.0.5") -> ActorDiedError:
    """An error as Ray words it."""
    error = ActorDiedError()
    error.error_msg = f"{ActorDiedError.BASE_ERROR_MSG}\n\tclass_name: RankProcess\n\tpid: {pid}\n\tip: {ip}\n{text}"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ActorDiedError(), "its process died: killed, crashed or out of memory"),
        (
            died(
                "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
                "detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes ..."
            ),
            "its process 71 died: killed, crashed or out of memory",
        ),
        (
            died("The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY ..."),
            "its process 71 was ended by Ray, as the memory of its node 10.0.0.5 was nearly used up",
        ),
        (died("The actor died because its node has died. Node Id: abc"), "its node 10.0.0.5 is gone"),
        (died("The actor is dead because it was killed by `ray.kill`."), "its process 71 was ended by ray.kill"),
        (ActorUnavailableError("socket closed", None), "its process cannot be reached"),
        (PeerStuck("did not answer for 60 s"), "did not answer for 60 s"),
        (ActorDiedError(RayTaskError("start", UNHAPPY_END, ValueError())), "did not start: ValueError: no such model"),
    ],
)
def test_a_death_is_told_in_a_few_words_instead_of_rays_page(error: RayActorError, words: str) -> None:
    assert reason(error) == words


def test_a_peer_that_cannot_say_that_it_is_well_counts_as_dead() -> None:
    error = raised("vLLM has failed")
    assert not is_death(error)
    assert is_death(as_death(error))
    assert reason(as_death(error)) == "ValueError: vLLM has failed"
    assert as_death(died("...")).error_msg.startswith("The actor died")


@pytest.mark.parametrize(
    ("failures", "blamed"),
    [
        ({}, []),
        ({2: raised("connection reset"), 0: raised("connection reset")}, [2, 0]),
        ({2: raised("connection reset"), 0: ActorDiedError(), 1: ActorDiedError()}, [0, 1]),
    ],
)
def test_the_dead_are_blamed_rather_than_those_they_left(failures: dict[int, RayError], blamed: list[int]) -> None:
    answers: Answers[int] = Answers(results={}, failures=failures, silent=())
    assert list(answers.dead or answers.failures) == blamed
