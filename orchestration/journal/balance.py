"""Who waits for whom: idle shares of learner and engines, and one line of advice where they are out of balance.

In: spans, then rows of metrics. Out: shares of an iteration, and text. Pure numbers: it neither measures nor prints.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from transfer.spans import Span

IDLE_METRICS = {"learner": "idle/learner", "engine": "idle/engines"}  # by the kind of a span's process
ADVICE_EVERY = 10  # iterations between two lines of advice, and those whose mean is judged
MIN_ITERATIONS = 3  # below that, at the end of a short run, the first iterations' warm-up would be judged
# Below that share of waiting on either side a better balance gains little more than measuring it costs.
UNBALANCED_IDLE = 0.25
# The other side is at work all the time: no schedule gives it more to do.
SATURATED_IDLE = 0.1


def idle_shares(spans: Iterable[Span], *, start_s: float, end_s: float) -> dict[str, float]:
    """Share of the time from start_s to end_s in which a learner rank, and an engine, had nothing under way.

    Means over ranks and engines, under their names in metrics.jsonl; a kind without spans is absent.
    """
    if end_s <= start_s:
        return {}
    by_track: dict[tuple[str, int], list[Span]] = defaultdict(list)
    for span in spans:
        by_track[span.kind, span.index].append(span)
    shares: dict[str, list[float]] = defaultdict(list)
    for (kind, _), of_track in by_track.items():
        if kind in IDLE_METRICS:
            shares[IDLE_METRICS[kind]].append(1.0 - _covered_s(of_track, start_s, end_s) / (end_s - start_s))
    return {name: sum(values) / len(values) for name, values in shares.items()}


def _covered_s(spans: Sequence[Span], start_s: float, end_s: float) -> float:
    """Length of the union of the spans between start_s and end_s."""
    covered, reached = 0.0, start_s
    for span in sorted(spans, key=lambda span: span.start_s):
        begin, end = max(span.start_s, reached), min(span.end_s, end_s)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def advice(*, idle_learner: float, idle_engines: float, max_staleness: int) -> str | None:
    """What would shorten an iteration, or None where neither side waits much; shares of the iteration, 0 to 1.

    With max_staleness=0 the two take turns and staleness lets them overlap. Beyond that the one that waits less is the
    bottleneck: more of it helps, and more staleness only while it waits too, held up by the bound.
    """
    longer = max(idle_learner, idle_engines)
    if longer < UNBALANCED_IDLE:
        return None
    waiting, more = ("learner waits", "1 more engine")
    if idle_engines > idle_learner:
        waiting, more = ("engines wait", "1 more learner rank")
    remedies = [more]
    if min(idle_learner, idle_engines) >= SATURATED_IDLE:
        remedies.append(f"max_staleness={max_staleness + 1}")
    return f"{waiting} {longer:.0%} of the time: {' or '.join(remedies)} would help"


class Adviser:
    """Reads the rows of a run and speaks up at most once in ADVICE_EVERY iterations, when the remedy is a new one."""

    def __init__(self, *, max_staleness: int) -> None:
        self._max_staleness = max_staleness
        self._recent: deque[Mapping[str, float]] = deque(maxlen=ADVICE_EVERY)
        self._num_unjudged = 0  # iterations since the last look
        self._num_untold = 0  # iterations since it spoke up
        self._told: str | None = None

    def observe(self, row: Mapping[str, float]) -> str | None:
        """Advice after the iteration of this row, if it is time for any; rows without idle shares do not count."""
        if not all(name in row for name in IDLE_METRICS.values()):
            return None
        self._recent.append(row)
        self._num_unjudged += 1
        self._num_untold += 1
        if self._num_unjudged < ADVICE_EVERY:
            return None
        self._num_unjudged = 0
        found = self._judge()
        if _remedy(found) == _remedy(self._told):
            return None
        self._told, self._num_untold = found, 0
        return found

    def conclude(self) -> str | None:
        """Advice at the end of a run, on its last iterations; None where its remedy was told in these iterations."""
        if len(self._recent) < MIN_ITERATIONS:
            return None
        found = self._judge()
        was_just_told = self._num_untold < ADVICE_EVERY and _remedy(found) == _remedy(self._told)
        return None if was_just_told else found

    def _judge(self) -> str | None:
        return advice(
            idle_learner=self._mean(IDLE_METRICS["learner"]),
            idle_engines=self._mean(IDLE_METRICS["engine"]),
            max_staleness=self._max_staleness,
        )

    def _mean(self, name: str) -> float:
        """Over the time of the recent iterations, which differ where one of two overlaps and the other waits."""
        seconds = [row["time/iteration_s"] for row in self._recent]
        return sum(row[name] * weight for row, weight in zip(self._recent, seconds, strict=True)) / sum(seconds)


def _remedy(text: str | None) -> str:
    return (text or "").partition(": ")[2]
