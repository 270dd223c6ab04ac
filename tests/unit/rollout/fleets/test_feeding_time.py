"""Feeding in simulated time: four engines that sample one token a step of each completion they hold.

256 groups of 8, lengths from 16 to 512 with a heavy tail. Against the plain rule: everything handed over at once, in
turn, as it comes.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from rollout.contract import EngineLoad, EngineRoom
from rollout.fleets.feeding import Feeder, WaitingGroup, wants_more

NUM_ENGINES = 4
ROOM = EngineRoom(num_sequences=64, kv_tokens=10**9)


@dataclass
class SimulatedEngine:
    waiting: deque[tuple[int, int]] = field(default_factory=deque)  # (group, tokens)
    running: list[tuple[int, int]] = field(default_factory=list)  # (group, tokens left)
    num_entered: int = 0

    def enter(self, group: int, lengths: np.ndarray) -> None:
        self.num_entered += 1
        self.waiting.extend((group, int(length)) for length in lengths)

    def step(self) -> list[int]:
        """Groups whose completions ended in this step, one entry a completion."""
        while self.waiting and len(self.running) < ROOM.num_sequences:
            self.running.append(self.waiting.popleft())
        ended = [group for group, left in self.running if left == 1]
        self.running = [(group, left - 1) for group, left in self.running if left > 1]
        return ended

    def load(self) -> EngineLoad:
        return EngineLoad(num_running=len(self.running), num_waiting=len(self.waiting), kv_usage=0.0)


def lengths_of(seed: int) -> np.ndarray:
    """[256, 8]; problems differ more than the completions of one."""
    rng = np.random.default_rng(seed)
    of_problem = np.exp(rng.normal(4.2, 0.9, (256, 1)))
    return np.clip(of_problem * np.exp(rng.normal(0.0, 0.35, (256, 8))), 16, 512).astype(np.int64)


def plain_steps(lengths: np.ndarray) -> int:
    """Until all have ended, by the plain rule."""
    engines = [SimulatedEngine() for _ in range(NUM_ENGINES)]
    for group, of_group in enumerate(lengths):
        engines[group % NUM_ENGINES].enter(group, of_group)
    num_left, steps = lengths.size, 0
    while num_left:
        steps += 1
        num_left -= sum(len(engine.step()) for engine in engines)
    return steps


def fed_steps(lengths: np.ndarray, expected: np.ndarray) -> int:
    """Until all have ended, with the fleet's books and an engine that tells of groups and of room."""
    engines = [SimulatedEngine() for _ in range(NUM_ENGINES)]
    feeder = Feeder(range(NUM_ENGINES))
    feeder.set_rooms(dict.fromkeys(range(NUM_ENGINES), ROOM))
    for group, length in enumerate(expected):
        feeder.hold(
            WaitingGroup(
                ticket=group,
                due=0,
                num_sequences=lengths.shape[1],
                num_prompt_tokens=0,
                expected_tokens=float(length),
            )
        )

    def hand_over() -> None:
        for engine, group in feeder.assign():
            engines[engine].enter(group, lengths[group])

    hand_over()
    left = np.full(len(lengths), lengths.shape[1])  # completions of each group that have not ended
    steps = 0
    while left.any():
        steps += 1
        for number, engine in enumerate(engines):
            ended = engine.step()
            for group in ended:
                left[group] -= 1
            finished = tuple(group for group in dict.fromkeys(ended) if left[group] == 0)
            if finished or (ended and wants_more(engine.load(), ROOM)):
                feeder.report(number, finished=finished, load=engine.load(), num_entered=engine.num_entered)
                hand_over()
    return steps


@pytest.mark.parametrize("seed", range(3))
def test_room_and_known_lengths_each_shorten_a_batch_with_a_heavy_tail(seed: int) -> None:
    lengths = lengths_of(seed)
    unsure = np.exp(np.random.default_rng(seed + 100).normal(0.0, 0.25, len(lengths)))
    plain = plain_steps(lengths)
    unknown = fed_steps(lengths, np.full(len(lengths), 100.0))
    known = fed_steps(lengths, lengths.mean(axis=1) * unsure)
    lower_bound = int(lengths.sum()) / (NUM_ENGINES * ROOM.num_sequences)
    print(f"plain {plain} steps, by room {unknown / plain:.2f}, with lengths known to 25 % {known / plain:.2f}")
    assert unknown < plain
    assert known < 0.75 * plain
    assert known < 1.15 * lower_bound, "engines were full nearly to the end"
