"""Heartbeats: questions that a living actor answers at once, asked again and again beside its work.

In: for each peer a function that asks it, and the part of its answer that changes while it works. Out: the peers that
are lost, with the reason. It waits for nothing: whoever waits for the peers calls lost() at each look, and only time
between looks counts, so that a driver that was stopped blames nobody.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import RayActorError, RayError

from transfer.answers import Peer, PeerStuck, as_death
from transfer.patience import SLICE_S, STOPPED_S

LONGEST_GAP_S = SLICE_S + STOPPED_S  # most time that counts between two looks

Progress = Callable[[Any], Hashable | None]


@dataclass(kw_only=True, slots=True)
class _Pulse:
    """One peer's last question and answer."""

    ask: Callable[[], Any]  # gives the reference of the answer
    progress_of: Progress  # what of an answer changes while the peer works; None: it has nothing to do
    asked: Any = None  # reference of the answer that is due; None: there is none
    silent_s: float = 0.0  # seconds since the question, or since the answer
    progress: Hashable | None = None
    stalled_s: float = 0.0  # seconds since an answer with another progress
    error: RayActorError | None = None


class Heartbeats(Generic[Peer]):
    """Asks each peer every_s after its last answer; lost are those that fail, or are silent or stalled for timeout_s.

    All calls must come from one thread.
    """

    def __init__(self, *, every_s: float, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self.timeout_s = timeout_s
        self._clock = clock
        self._looked_at = clock()
        self._pulses: dict[Peer, _Pulse] = {}

    def watch(self, peer: Peer, ask: Callable[[], Any], progress_of: Progress = lambda _: None) -> None:
        """Watches a peer from now on; another one of its name is forgotten."""
        self._pulses[peer] = _Pulse(ask=ask, progress_of=progress_of)

    def forget(self, peer: Peer) -> None:
        self._pulses.pop(peer, None)

    def lost(self) -> dict[Peer, RayActorError]:
        """Takes the answers that have come, asks again where it is time, and names the peers that are lost by now."""
        now = self._clock()
        gap_s, self._looked_at = min(now - self._looked_at, LONGEST_GAP_S), now
        due = [pulse.asked for pulse in self._pulses.values() if pulse.asked is not None]
        answered = set(ray.wait(due, num_returns=len(due), timeout=0)[0]) if due else set()
        for pulse in self._pulses.values():
            self._feel(pulse, gap_s, is_answered=pulse.asked in answered)
        return {peer: pulse.error for peer, pulse in self._pulses.items() if pulse.error is not None}

    def _feel(self, pulse: _Pulse, gap_s: float, *, is_answered: bool) -> None:
        pulse.silent_s += gap_s
        pulse.stalled_s += gap_s
        if pulse.error is not None:
            return
        if is_answered:
            self._take(pulse)
        elif pulse.asked is not None and pulse.silent_s >= self.timeout_s:
            pulse.error = PeerStuck(f"did not answer for {self.timeout_s:g} s")
        if pulse.asked is None and pulse.silent_s >= self._every_s:
            pulse.asked, pulse.silent_s = pulse.ask(), 0.0

    def _take(self, pulse: _Pulse) -> None:
        """Takes the answer, which tells whether the peer has made progress since the last one."""
        try:
            progress = pulse.progress_of(ray.get(pulse.asked))
        except RayError as error:
            pulse.error = as_death(error)
            return
        if progress is None or progress != pulse.progress:
            pulse.stalled_s = 0.0
        elif pulse.stalled_s >= self.timeout_s:
            pulse.error = PeerStuck(f"had work and made no step for {self.timeout_s:g} s")
        pulse.asked, pulse.progress, pulse.silent_s = None, progress, 0.0
