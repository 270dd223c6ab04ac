"""Engine handles without Ray: what a fleet calls on them is recorded, and the test says what they answer and when."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from rollout.contract import (
    EngineLoad,
    FinishedRequest,
    GroupChunk,
    GroupRequest,
    GroupSummary,
    Prompt,
    SamplingSpec,
)

IDLE = EngineLoad(num_running=0, num_waiting=0, kv_usage=0.0)


class Ref:
    """Stands for an ObjectRef."""

    def __init__(self, content: "Future[Any]") -> None:
        self._content = content

    def future(self) -> "Future[Any]":
        return self._content


class Method:
    """`engine.name.remote(...)`, also behind `.options(...)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function

    def options(self, *, num_returns: int) -> "Method":
        return Method(lambda *args, **keywords: self.remote(*args, num_returns=num_returns, **keywords))


class FakeEngine:
    """Samples nothing. `events` may be shared by engines, to see an order across them."""

    def __init__(self, name: str = "engine", events: list[tuple[str, ...]] | None = None) -> None:
        self.name = name
        self.events = [] if events is None else events
        self.inside: dict[int, GroupRequest] = {}  # unfinished, by prompt index
        self.num_started = 0
        self.holds_back = False  # what the fleet said last
        self.num_calls = 0
        self.start = Method(self._start)
        self.collect = Method(self._collect)
        self.receive = Method(lambda *_, **__: self.events.append((self.name, "receive")))
        self._open: list[tuple[Future[GroupChunk], int]] = []

    def _start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        self.num_calls += 1
        self.holds_back = holds_back
        self.num_started += len(requests)
        self.inside |= {request.prompt.position: request for request in requests}
        self.events.append((self.name, *(str(request.prompt.position) for request in requests)))

    def _collect(self, limit: int, *, holds_back: bool, num_returns: int) -> list[Ref]:
        assert not self._open, "one call at a time"
        assert num_returns == 1 + limit
        self.num_calls += 1
        self.holds_back = holds_back
        chunk: Future[GroupChunk] = Future()
        self._open.append((chunk, limit))
        return [Ref(chunk), *(Ref(Future()) for _ in range(limit))]

    def finish(self, *indices: int, load: EngineLoad = IDLE, num_tokens: int = 8) -> None:
        """Answers the open call with the groups of these prompts; none: with the load only."""
        chunk, limit = self._open.pop()
        assert len(indices) <= limit
        requests = [self.inside.pop(index) for index in indices]
        summaries = [GroupSummary(position=request.prompt.position, num_tokens=num_tokens) for request in requests]
        chunk.set_result(
            GroupChunk(
                finished=tuple(
                    FinishedRequest(ticket=request.ticket, summary=summary)
                    for request, summary in zip(requests, summaries, strict=True)
                ),
                load=load,
                num_entered=self.num_started,
            )
        )

    def fail(self, error: Exception) -> None:
        """The open call raises."""
        chunk, _ = self._open.pop()
        chunk.set_exception(error)


def prompt_of(index: int, *, text: str = "", source: str = "sums", length: int = 4) -> Prompt:
    return Prompt(
        position=index,
        token_ids=np.zeros(length, dtype=np.int32),
        text=text or f"problem {index}",
        reference_answer="",
        source=source,
    )


def sampling_of(num_completions: int = 2, max_new_tokens: int = 16) -> SamplingSpec:
    return SamplingSpec(num_completions=num_completions, max_new_tokens=max_new_tokens, temperature=1.0, seed=0)
