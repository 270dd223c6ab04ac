"""When an engine reports room although no group has finished, and how current its report is.

In: vLLM's load after each step. Out: whether to report now. An object of the engine's actor, called on the thread that
steps; it knows neither vLLM nor Ray.
"""

from collections import deque

from rollout.contract import EngineLoad, EngineRoom
from rollout.fleets.feeding import wants_more

STEPS_UNTIL_COUNTED = 2  # a request given to vLLM is in its scheduler's count by the step after the next
NEWS_SHARE = 16  # a sixteenth of its sequences must have ended before an engine reports again


class RoomWatch:
    """Follows one engine's load."""

    def __init__(self, room: EngineRoom) -> None:
        self.load = EngineLoad(num_running=0, num_waiting=0, kv_usage=0.0)
        self.is_wanted = False  # True where the fleet holds prompts back, and would hand some over
        self.room = room
        self._entered = deque([0] * STEPS_UNTIL_COUNTED, maxlen=STEPS_UNTIL_COUNTED + 1)
        self._peak = 0  # most sequences in the engine since the last report

    @property
    def num_counted(self) -> int:
        """Requests, of those that entered, that the load counts for certain."""
        return self._entered[0]

    def stepped(self, load: EngineLoad, num_entered: int) -> bool:
        """Takes vLLM's load after a step; num_entered: requests given to vLLM so far. True: report it now."""
        self.load = load
        self._entered.append(num_entered)
        live = load.num_running + load.num_waiting
        self._peak = max(self._peak, live)
        is_news = live <= self._peak - max(1, self.room.num_sequences // NEWS_SHARE)
        return self.is_wanted and is_news and wants_more(load, self.room)

    def reported(self) -> None:
        """Notes that the fleet has this load now."""
        self._peak = self.load.num_running + self.load.num_waiting
