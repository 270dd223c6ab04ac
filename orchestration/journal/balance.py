"""Balance of learner and engines: the share of time each is idle, and one line of advice where one side waits often.

In: spans, and rows of metrics. Out: shares of an iteration, and text. Pure: it neither measures nor prints.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from transfer.spans import Span

IDLE_METRICS = {"learner": "idle/learner", "engine": "idle/engines"}  # metrics by the kind of a span's process
ADVICE_EVERY = 10  # iterations between two lines of advice, and number of iterations in their mean
MIN_ITERATIONS = 3  # iterations needed for advice at the end of a short run, whose first ones warm up
UNBALANCED_IDLE = 0.25  # idle share of one side below which a better balance gains hardly more than measuring it costs
SATURATED_IDLE = 0.1  # idle share below which a side works all the time, so that no schedule gives it more to do


def idle_shares(spans: Iterable[Span], *, start_s: float, end_s: float) -> dict[str, float]:
    """Shares of the time from start_s to end_s in which a learner rank and an engine were idle.

    Each is the mean over ranks or engines, under its name in metrics.jsonl; a kind without spans is absent.
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
    """Advice that would shorten an iteration, or None where neither side waits much; idle: shares from 0 to 1.

    The side that waits less is the bottleneck, so more of it helps. More staleness helps only while the bottleneck
    waits too: with max_staleness=0 for its turn, above that for the staleness bound.
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
    """Gives advice on the rows of a run, at most once in ADVICE_EVERY iterations and only when the remedy is new."""

    def __init__(self, *, max_staleness: int) -> None:
        self._max_staleness = max_staleness
        self._recent: deque[Mapping[str, float]] = deque(maxlen=ADVICE_EVERY)
        self._num_unjudged = 0  # iterations since the last judgement
        self._num_silent = 0  # iterations since the last advice
        self._given: str | None = None  # the last advice

    def observe(self, row: Mapping[str, float]) -> str | None:
        """Advice after the iteration of this row, if any is due; rows without idle shares do not count."""
        if not all(name in row for name in IDLE_METRICS.values()):
            return None
        self._recent.append(row)
        self._num_unjudged += 1
        self._num_silent += 1
        if self._num_unjudged < ADVICE_EVERY:
            return None
        self._num_unjudged = 0
        found = self._judge()
        if _remedy(found) == _remedy(self._given):
            return None
        self._given, self._num_silent = found, 0
        return found

    def conclude(self) -> str | None:
        """Advice at the end of a run on its last iterations; None where they had the same advice already."""
        if len(self._recent) < MIN_ITERATIONS:
            return None
        found = self._judge()
        was_just_given = self._num_silent < ADVICE_EVERY and _remedy(found) == _remedy(self._given)
        return None if was_just_given else found

    def _judge(self) -> str | None:
        """Advice on the means of the idle shares over the recent iterations, weighted by their seconds."""
        seconds = sum(row["time/iteration_s"] for row in self._recent)
        learner, engines = (
            sum(row[IDLE_METRICS[kind]] * row["time/iteration_s"] for row in self._recent) / seconds
            for kind in ("learner", "engine")
        )
        return advice(idle_learner=learner, idle_engines=engines, max_staleness=self._max_staleness)


def _remedy(text: str | None) -> str:
    return (text or "").partition(": ")[2]
