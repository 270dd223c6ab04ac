"""The order in which several sources take turns.

In: weights of the sources and a position. Out: the source at the position, and the number of its earlier turns. This is
a pure function, so only a position has to be saved. Each source has its exact share of any stretch, without randomness.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm


class Interleave:
    """Turns of sources by weight: each position goes to the source that lags its share most, of equals to the first.

    The order repeats after `period` positions: weights 1 and 1 give 0 1 0 1 ..., weights 3 and 1 give 0 0 1 0 ....
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights {list(weights)}: must be one or more positive numbers")
        # Decimal as typed, so that 0.1 is exactly a tenth, shares are exact and the period is short.
        exact = [Fraction(str(weight)) for weight in weights]
        common = lcm(*(weight.denominator for weight in exact))
        parts = [int(weight * common) for weight in exact]
        divisor = gcd(*parts)
        self._parts = [part // divisor for part in parts]
        self.period = sum(self._parts)
        self._turns: list[tuple[int, int]] = []  # turns of the first positions, as far as they were asked for
        self._counts = [0] * len(weights)

    def turn(self, position: int) -> tuple[int, int]:
        """(source, number of its earlier turns) at a position, both counted from 0."""
        cycle, place = divmod(position, self.period)
        while len(self._turns) <= place:
            after = len(self._turns) + 1
            lags = [part * after - self.period * count for part, count in zip(self._parts, self._counts, strict=True)]
            source = lags.index(max(lags))
            self._turns.append((source, self._counts[source]))
            self._counts[source] += 1
        source, earlier = self._turns[place]
        return source, earlier + cycle * self._parts[source]
