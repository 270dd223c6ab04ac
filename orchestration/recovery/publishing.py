"""LastingPublisher: publishes that outlive the engines they meet.

In: a WeightChannel and the keeper of its engines. Out: a publish that reached every engine there is. An engine that is
lost meanwhile is replaced, and all weights are sent again to the others. Whatever else fails ends the run.
"""

from functools import partial

from orchestration.recovery.engine_keeper import EngineKeeper
from orchestration.weight_channel import PublishReport, WeightChannel
from transfer.spans import Span


class LastingPublisher:
    """The Publisher of a run with engines."""

    def __init__(self, channel: WeightChannel, keeper: EngineKeeper) -> None:
        self._channel = channel
        self._keeper = keeper
        self._version: int | None = None  # version published last

    def publish(self, version: int) -> PublishReport:
        """Waits for engines where too few are left; raises what WeightChannel.publish raises, but EngineLost."""
        report = self._keeper.reach_all(partial(self._channel.publish, version))
        self._version = version
        return report

    def publish_again(self) -> None:
        """Sends the weights that were published last; the learner must not have moved since."""
        assert self._version is not None, "nothing was published that could be published again"
        self.publish(self._version)

    def drain_engine_spans(self) -> tuple[Span, ...]:
        """What engines did until they answered the last publish; each span once."""
        return self._channel.drain_engine_spans()
