"""Waits for the answers of several actors, and reports which of them failed or kept silent.

In: one Ray reference a peer. Out: Answers. Knows neither what was asked nor how a caller names a failure: exceptions
and the settings in their messages are the callers'.
"""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

FAILURE_GRACE_S = 2.0  # after a first failure, how long the other peers may still report theirs

Peer = TypeVar("Peer", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers(Generic[Peer]):
    """The answers that came within the time; every peer is in one of the three fields."""

    results: dict[Peer, Any]  # results in the order of the calls
    failures: dict[Peer, RayError]  # errors in the order of arrival
    silent: tuple[Peer, ...]  # peers in the order of the calls; without failures they ran into the time-out

    @property
    def blamed(self) -> dict[Peer, RayError]:
        """The failures to report: those of peers that died, else all.

        A death breaks the connections of the others, so what they report is its consequence.
        """
        died = {peer: error for peer, error in self.failures.items() if isinstance(error, RayActorError)}
        return died or self.failures


def await_answers(calls: Mapping[Peer, ray.ObjectRef], *, timeout_s: float) -> Answers[Peer]:
    """Waits for all peers: unblocked by their answers, by the time-out, or FAILURE_GRACE_S after a first failure.

    A failure ends the wait so soon because peers inside a common collective would wait for the failed one for ever.
    """
    deadline = time.monotonic() + timeout_s
    results: dict[Peer, Any] = {}
    failures: dict[Peer, RayError] = {}
    waiting = {ref: peer for peer, ref in calls.items()}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            break
        for ref in done:
            peer = waiting.pop(ref)
            try:
                results[peer] = ray.get(ref)
            except RayError as error:
                failures[peer] = error
                deadline = min(deadline, time.monotonic() + FAILURE_GRACE_S)
    return Answers(
        results={peer: results[peer] for peer in calls if peer in results},
        failures=failures,
        silent=tuple(waiting.values()),
    )


def reason(error: RayError) -> str:
    """One line about an actor's failure: its own exception without Ray's copy of the traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
