"""Patience: a time limit in which only the time counts that this process was awake.

In: a limit in seconds. Out: the seconds to wait next, again and again, until the limit is used up. A process that was
stopped (Ctrl-Z, a laptop's lid) has waited for nobody meanwhile, so that a stop costs one slice, and whoever waits
looks once more at what has arrived before it gives up.
"""

import time
from collections.abc import Callable, Iterator

SLICE_S = 0.5  # longest wait between two looks
ROUNDING_S = 1e-6  # rest of a limit that counts as none
STOPPED_S = 2.0  # a slice that takes so much longer than asked: the process was stopped, or did something else


class Patience:
    """What is left of a limit.

    Example: `for slice_s in Patience(60.0): if event.wait(slice_s): break`, and `else:` for the time-out. The last
    slice has 0 seconds.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.left_s = limit_s
        self._clock = clock

    def __iter__(self) -> Iterator[float]:
        while self.left_s > ROUNDING_S:
            asked_s = min(SLICE_S, self.left_s)
            begun = self._clock()
            yield asked_s
            took_s = self._clock() - begun
            self.left_s -= took_s if took_s < asked_s + STOPPED_S else asked_s
        yield 0.0

    def shorten(self, limit_s: float) -> None:
        """Leaves at most so much from now on."""
        self.left_s = min(self.left_s, limit_s)
