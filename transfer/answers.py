"""Waits for the answers of several actors, and reports which of them failed or kept silent.

In: one Ray reference a peer. Out: Answers. Knows neither what was asked nor how a caller names a failure: exceptions
and the settings in their messages are the callers'.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from transfer.patience import Patience

FAILURE_GRACE_S = 2.0  # after a first failure, how long the other peers may still report theirs

Peer = TypeVar("Peer", bound=Hashable)


class PeerStuck(RayActorError):
    """A process that is there and does nothing; it counts as dead."""

    def __init__(self, how: str) -> None:
        super().__init__(error_msg=how)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers(Generic[Peer]):
    """The answers that came within the time; every peer is in one of the three fields."""

    results: dict[Peer, Any]  # results in the order of the calls
    failures: dict[Peer, RayError]  # errors in the order of arrival
    silent: tuple[Peer, ...]  # peers in the order of the calls; without failures they ran into the time-out

    @property
    def dead(self) -> dict[Peer, RayError]:
        """The failures of peers whose process is gone or stuck: another process can take their place.

        A death breaks the connections of the others, so what they report is its consequence.
        """
        return {peer: error for peer, error in self.failures.items() if is_death(error)}

    def unwell(self, *, timeout_s: float) -> dict[Peer, RayActorError]:
        """The peers that did not say that they are well: those that failed, else those that kept silent so long."""
        if self.failures:
            return {peer: as_death(error) for peer, error in self.failures.items()}
        return {peer: PeerStuck(f"did not answer for {timeout_s:g} s") for peer in self.silent}


def await_answers(
    calls: Mapping[Peer, ray.ObjectRef], *, timeout_s: float, lost: Callable[[], Mapping[Peer, RayError]] = dict
) -> Answers[Peer]:
    """Waits for all peers: unblocked by their answers, by the time-out, or FAILURE_GRACE_S after a first failure.

    A failure ends the wait so soon because peers inside a common collective would wait for the failed one for ever.
    lost: peers of which nothing is to be expected any more; asked at least every SLICE_S.
    """
    results: dict[Peer, Any] = {}
    failures: dict[Peer, RayError] = {}
    waiting = {ref: peer for peer, ref in calls.items()}
    patience = Patience(timeout_s)
    for slice_s in patience:
        if not waiting:
            break
        done, _ = ray.wait(list(waiting), num_returns=1 if slice_s else len(waiting), timeout=slice_s)
        for ref in done:
            peer = waiting.pop(ref)
            try:
                results[peer] = ray.get(ref)
            except RayError as error:
                failures[peer] = error
        if waiting:
            gone = lost()
            failures |= {peer: gone[peer] for peer in waiting.values() if peer in gone}
            waiting = {ref: peer for ref, peer in waiting.items() if peer not in gone}
        if failures:
            patience.shorten(FAILURE_GRACE_S)
    return Answers(
        results={peer: results[peer] for peer in calls if peer in results},
        failures=failures,
        silent=tuple(waiting.values()),
    )


def is_death(error: RayError) -> bool:
    """Whether the error tells of a process that is gone or stuck, and not of an exception that it raised."""
    return isinstance(error, RayActorError)


def as_death(error: RayError) -> RayActorError:
    """The error of a peer that cannot even say that it is well."""
    if isinstance(error, RayActorError):
        return error
    stuck = PeerStuck(reason(error))
    stuck.__cause__ = error
    return stuck


def reason(error: RayError) -> str:
    """One line about an actor's failure: its own exception without Ray's copy of the traceback, or how it died."""
    if isinstance(error, RayActorError):
        return _cause_of_death(error)
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def _cause_of_death(error: RayActorError) -> str:
    """A few words instead of Ray's page, which is in the log."""
    if isinstance(error, PeerStuck):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if error.actor_init_failed:
        return f"did not start: {lines[-1]}"
    known = dict(line.split(": ", 1) for line in lines if line.startswith(("pid: ", "ip: ")))
    if "its node has died" in text:
        return f"its node{_after(' ', known.get('ip'))} is gone"
    process = f"its process{_after(' ', known.get('pid'))}"
    if "OUT_OF_MEMORY" in text:
        return f"{process} was ended by Ray, as the memory of its node{_after(' ', known.get('ip'))} was nearly used up"
    if "ray.kill" in text:
        return f"{process} was ended by ray.kill"
    if isinstance(error, ActorUnavailableError):
        return f"{process} cannot be reached"
    return f"{process} died: killed, crashed or out of memory"


def _after(separator: str, text: str | None) -> str:
    return f"{separator}{text}" if text else ""
