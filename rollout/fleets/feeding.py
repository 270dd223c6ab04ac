"""The feeding rule: which prompt goes to which engine, and when. It knows neither Ray nor a clock.

In: groups that wait, what engines hold at most, and the loads that they report. Out: (engine, ticket) pairs to hand
over now. The rest waits here, where it still can go to whichever engine has room first.

An engine is given sequences up to its limit and a small backlog, so that vLLM fills a free place in its next step; and
no more tokens than its key/value cache will hold, since a preempted completion is computed twice. Waiting groups go by
`due`, and among equals the longest first, to the engine with the least work before it.
"""

import heapq
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from rollout.contract import EngineLoad, EngineRoom

BACKLOG_SHARE = 8  # an eighth of an engine's sequences may wait inside vLLM


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingGroup:
    """The completions of one prompt, to be sampled together."""

    ticket: int
    due: int  # lower goes first
    num_sequences: int
    num_prompt_tokens: int
    expected_tokens: float  # expected tokens of one completion

    @property
    def work(self) -> float:
        """Tokens to sample."""
        return self.num_sequences * self.expected_tokens

    @property
    def kv_tokens(self) -> float:
        """Tokens in the cache at the end of all completions, as if each had its own copy of the prompt."""
        return self.num_sequences * (self.num_prompt_tokens + self.expected_tokens)


def backlog(room: EngineRoom) -> int:
    """Sequences that may wait inside an engine whose places are all taken."""
    return room.num_sequences // BACKLOG_SHARE


def wants_more(load: EngineLoad, room: EngineRoom) -> bool:
    """Whether half of the backlog is used up, so that an engine should report its load before it is idle."""
    return load.num_waiting <= backlog(room) // 2


class _Account:
    """The load of one engine, from its reports and from what it was handed since."""

    def __init__(self) -> None:
        self.room: EngineRoom | None = None  # capacity; None: not known yet, then everything fits
        self.is_open = False  # True where it may be handed groups
        self.unfinished: dict[
            int, tuple[int, WaitingGroup]
        ] = {}  # groups by ticket, with their numbers among those handed over
        self.num_handed = 0
        self.live = 0.0  # sequences
        self.work = 0.0  # tokens still to sample
        self.kv_tokens = 0.0  # tokens in the cache at the expected peak
        self.stamp = 0  # stamp of its only valid entry in the heap of open engines; 0: it has none

    def fits(self, group: WaitingGroup) -> bool:
        if self.room is None or not self.unfinished:  # alone it must fit, else it never would
            return True
        places = self.room.num_sequences + max(group.num_sequences, backlog(self.room))
        return self.live + group.num_sequences <= places and self.kv_tokens + group.kv_tokens <= self.room.kv_tokens

    def add(self, group: WaitingGroup) -> None:
        self.unfinished[group.ticket] = (self.num_handed, group)
        self.num_handed += 1
        self._count(group)

    def settle(self, load: EngineLoad, num_entered: int) -> None:
        """Starts from the load that the engine reports; adds what was handed over since.

        The engine counts completions; how long those will be is known of their groups together only, so each counts as
        the mean of the groups inside.
        """
        inside = [group for number, group in self.unfinished.values() if number < num_entered]
        num_inside = sum(group.num_sequences for group in inside)
        live = load.num_running + load.num_waiting
        share = live / num_inside if num_inside else 0.0
        self.live = live
        self.work = share * sum(group.work for group in inside)
        used = 0.0 if self.room is None else load.kv_usage * self.room.kv_tokens
        self.kv_tokens = max(used, share * sum(group.kv_tokens for group in inside))
        for number, group in self.unfinished.values():
            if number >= num_entered:
                self._count(group)

    def _count(self, group: WaitingGroup) -> None:
        self.live += group.num_sequences
        self.work += group.work
        self.kv_tokens += group.kv_tokens


class Feeder:
    """The loads of one fleet's engines, which are known by numbers; all are open at first."""

    def __init__(self, engines: Iterable[int]) -> None:
        self._accounts: dict[int, _Account] = {}
        self._waiting: list[tuple[int, float, int, WaitingGroup]] = []  # heap
        self._by_work: list[tuple[float, int, int]] = []  # heap of open engines, with stamps; old entries stay
        self._stamps = count(1)
        for engine in engines:
            self.add(engine)
            self.open(engine)

    def add(self, engine: int) -> None:
        """Adds an engine, which gets nothing before open()."""
        assert engine not in self._accounts, engine
        self._accounts[engine] = _Account()

    def open(self, engine: int) -> None:
        """Lets the engine be handed groups."""
        self._accounts[engine].is_open = True
        self._reopen(engine)

    def close(self, engine: int) -> None:
        """Lets nothing more go to this engine."""
        account = self._accounts[engine]
        account.is_open = False
        account.stamp = 0

    def remove(self, engine: int) -> None:
        """Forgets the engine; what it has not finished waits again, as if it had never been handed over."""
        for _, group in self._accounts.pop(engine).unfinished.values():
            self.hold(group)

    def set_rooms(self, rooms: Mapping[int, EngineRoom]) -> None:
        """Sets the capacity of each engine; before, everything fits."""
        for engine, room in rooms.items():
            self._accounts[engine].room = room

    def hold(self, group: WaitingGroup) -> None:
        """Takes a group in, to be handed over when its turn has come."""
        heapq.heappush(self._waiting, (group.due, -group.expected_tokens, group.ticket, group))

    def keep(self, tickets: Container[int]) -> None:
        """Drops the groups that wait and have none of these tickets."""
        self._waiting = [entry for entry in self._waiting if entry[-1].ticket in tickets]
        heapq.heapify(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Groups that no engine has yet."""
        return len(self._waiting)

    def num_unfinished(self, engine: int) -> int:
        """Groups that were handed to the engine and have not come back."""
        return len(self._accounts[engine].unfinished)

    def report(self, engine: int, *, finished: tuple[int, ...], load: EngineLoad, num_entered: int) -> None:
        """Takes an engine's report: the groups that it has finished, and its load."""
        account = self._accounts[engine]
        for ticket in finished:
            del account.unfinished[ticket]
        account.settle(load, num_entered)
        self._reopen(engine)

    def assign(self) -> Iterator[tuple[int, int]]:
        """(engine, ticket) of what may go now, in the order in which it should go.

        Ends where the next group in turn fits nowhere: a smaller one behind it does not overtake it, or a large one
        might wait for ever.
        """
        while self._waiting and self._by_work:
            _, engine, stamp = self._by_work[0]
            account = self._accounts.get(engine)
            if account is None or stamp != account.stamp:
                heapq.heappop(self._by_work)
                continue
            group = self._waiting[0][-1]
            if not account.fits(group):
                heapq.heappop(self._by_work)
                account.stamp = 0
                continue
            heapq.heappop(self._waiting)
            account.add(group)
            self._reopen(engine)
            yield engine, group.ticket

    def _reopen(self, engine: int) -> None:
        account = self._accounts[engine]
        if account.is_open:
            account.stamp = next(self._stamps)
            heapq.heappush(self._by_work, (account.work, engine, account.stamp))
