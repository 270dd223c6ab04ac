"""A fleet and graders under a fake clock: each tick every completion in flight gets a token. Rewards are given."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sampled import one_turn, versions
from verdicts import verdict_of

import orchestration.stream.group_stream as module
from rollout.contract import Completion, GroupSummary, GroupVerdicts, Prompt, PromptGroup, SamplingSpec
from rollout.fleets.fleet import FinishedGroup

Rewards = Callable[[int], tuple[float, ...]]  # position -> [G]
Lengths = Callable[[int], int]  # position -> tokens of each completion


class FakeRollout:
    """The fleet, the graders and the stream of prompts of one run; every call is an event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rewards: Rewards, lengths: Lengths) -> None:
        self.events: list[str] = []
        self.version = -1
        self.now = 0.0
        self.versions_of: dict[int, int] = {}  # position -> version at which it was submitted
        self.due_of: dict[int, int] = {}  # position -> iteration, as the fleet is told
        self._rewards = rewards
        self._lengths = lengths
        self._in_flight: dict[int, list[int]] = {}  # position -> version of each token so far
        self._arrived: list[FinishedGroup] = []  # and not given out
        # References are the objects themselves, so that nothing has to run.
        monkeypatch.setattr(module, "ray", SimpleNamespace(get=lambda references: list(references)))
        monkeypatch.setattr(module, "await_verdicts", lambda references: list(references))
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def prompt_at(self, position: int) -> Prompt:
        return Prompt(
            position=position, token_ids=np.array([1], dtype=np.int32), text="", reference_answer="", source="fake"
        )

    def submit(self, prompt: Prompt, sampling: SamplingSpec, *, due: int) -> None:
        self.events.append(f"submit {prompt.position}")
        assert prompt.position not in self.versions_of, "a prompt is generated once"
        self.versions_of[prompt.position] = self.version
        self.due_of[prompt.position] = due
        self._in_flight[prompt.position] = []

    def tick(self) -> None:
        """One token of everything in flight; what finishes with it is graded at once."""
        self.now += 1.0
        for position, tokens in list(self._in_flight.items()):
            tokens.append(self.version)
            if len(tokens) == self._lengths(position):
                del self._in_flight[position]
                self._arrived.append(self._finished(position, tokens))

    def await_finished(self, *, at_most_s: float) -> list[FinishedGroup]:
        assert self._in_flight or self._arrived, "waits for groups that were never submitted"
        while not self._arrived:
            self.tick()
            if at_most_s < math.inf:  # of any length: a tick is the shortest
                break
        finished, self._arrived = self._arrived, []
        return finished

    def learn(self) -> None:
        """The learner's step takes 3 ticks."""
        for _ in range(3):
            self.tick()

    def grade(self, group: PromptGroup) -> GroupVerdicts:
        verdicts = tuple(verdict_of(format=reward, answer=0.0) for reward in self._rewards(group.prompt.position))
        return GroupVerdicts(verdicts=verdicts, timed_out=0)

    def _finished(self, position: int, tokens: list[int]) -> FinishedGroup:
        prompt = self.prompt_at(position)
        starts = versions(*((version, tokens.index(version)) for version in sorted(set(tokens))))
        sampled = one_turn(prompt.token_ids, [0] * len(tokens), starts=starts)
        completion = Completion(tokens=sampled, text="", finished=True)
        num_completions = len(self._rewards(position))
        group: Any = PromptGroup(
            prompt=prompt,
            completions=(completion,) * num_completions,
            engine_index=0,
            generate_s=float(len(tokens)),
        )
        return FinishedGroup(
            group_ref=group, verdicts_ref=self.grade(group), summary=GroupSummary.of(group), finished_at=self.now
        )
