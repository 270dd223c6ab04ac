"""The result of a study: means, differences, verdicts and curves of its gates.

In: run records with their gate, seed and kind. Out: a frozen StudyResult. Pure: reads no file and draws nothing; the
same runs give the same result, whatever their order and however often they were interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from orchestration.journal.run_record import LAST, RunRecord
from orchestration.statistics.seeds import SeedDifference, SeedMean, Verdict, judge, paired_difference, seed_mean
from orchestration.study.settings import Kind

KINDS: tuple[Kind, ...] = ("live", "replayed")
AIME = ("eval/aime24/pass@1", "eval/aime25/pass@1")
AIME_TOGETHER = "eval/aime24-25/pass@1"  # metric of the paper's table 1; the sets are of one size
# Title, unit, logarithmic, metrics of each picture; several metrics of one differ in line style. Other rewards' follow.
PANELS: tuple[tuple[str, str, bool, tuple[str, ...]], ...] = (
    ("Reward", "points", False, ("reward/mean",)),
    ("Format reward", "points, 0 to 1", False, ("reward/format",)),
    ("Policy entropy", "nats per completion token", False, ("policy/entropy",)),
    ("EUR, advantage > 0", "mean slope, 0 to 1", False, ("gate/eur_pos",)),
    ("EUR, advantage ≤ 0", "mean slope, 0 to 1", False, ("gate/eur_neg",)),
    ("Completion length", "tokens", False, ("completion/length_mean",)),
    ("Variance of the ratio", "within a step, log scale", True, ("ratio/variance",)),
    ("Gradient norm", "before clipping", False, ("grad_norm",)),
    ("Temperature of the gate", "tau_pos solid, tau_neg dashed", False, ("gate/tau_pos", "gate/tau_neg")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyArm:
    """One run and its place in the study."""

    gate: str
    seed: int
    kind: Kind
    record: RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number that each run has: of its last evaluation, or the mean of a metric over iterations."""

    key: str
    label: str  # name with unit
    scale: float  # factor from the number to the unit
    digits: int
    metric: str  # name in eval.jsonl or metrics.jsonl
    last: int = LAST  # last iterations whose mean it is; 0: all
    compared: bool = True  # whether pairs of gates are judged on it


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSummary:
    """The measures of one gate over its seeds: a row of the table."""

    gate: str
    kind: Kind
    values: Mapping[str, Mapping[int, float]]  # values by measure, then seed; a measure that no run has is absent
    means: Mapping[str, SeedMean]  # means by measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The difference first minus second of two gates in one measure."""

    measure: str
    kind: Kind
    first: str
    second: str
    difference: SeedDifference
    verdict: Verdict  # verdict, corrected for all pairs of this measure and kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """One metric of one gate over the iterations that all its seeds have."""

    metric: str
    gate: str
    kind: Kind
    iterations: np.ndarray  # [N] int, from 1
    mean: np.ndarray  # [N]
    low: np.ndarray  # [N] smallest over the seeds
    high: np.ndarray  # [N] largest


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """All numbers of the report's tables and pictures."""

    measures: tuple[Measure, ...]
    untrained: Mapping[str, SeedMean]  # evaluations before training by measure, over the seeds
    gates: tuple[GateSummary, ...]
    pairs: tuple[Pair, ...]
    bands: tuple[Band, ...]


def summarize(arms: Sequence[StudyArm]) -> StudyResult:
    """The result of finished runs, gates in the order in which they first appear."""
    measures, groups = measures_of(arms), by_gate(arms)
    rewards = (measure.key for measure in measures if measure.key.startswith("reward/"))
    metrics = dict.fromkeys([*(metric for *_, shown in PANELS for metric in shown), *rewards])
    gates = tuple(_gate_summary(gate, kind, group, measures) for (gate, kind), group in groups.items())
    return StudyResult(
        measures=measures,
        # All arms of a seed start from the same model, so that one evaluation before training counts for each seed.
        untrained={
            each.key: seed_mean(list(by_seed.values()))
            for each in measures
            if each.key.startswith("eval/") and (by_seed := _by_seed(arms, each, trained=False))
        },
        gates=gates,
        pairs=tuple(
            pair for kind in KINDS for measure in measures if measure.compared for pair in _pairs(gates, kind, measure)
        ),
        bands=tuple(
            band
            for (gate, kind), group in groups.items()
            for metric in metrics
            for band in _bands(gate, kind, metric, group)
        ),
    )


def by_gate(arms: Sequence[StudyArm]) -> dict[tuple[str, Kind], list[StudyArm]]:
    """The arms of each gate and kind, by seed: live arms first, gates in the order in which they first appear."""
    return {
        (gate, kind): sorted((arm for arm in arms if (arm.gate, arm.kind) == (gate, kind)), key=lambda arm: arm.seed)
        for kind in KINDS
        for gate in dict.fromkeys(arm.gate for arm in arms if arm.kind == kind)
    }


def measures_of(arms: Sequence[StudyArm]) -> tuple[Measure, ...]:
    """One measure for each evaluation set, then those of the training itself."""
    names = {name for arm in arms for row in arm.record.evals.values() for name in row}
    sets = [(name, name.split("/")[1]) for name in sorted(names) if name.endswith("/pass@1")]
    if names.issuperset(AIME):
        sets.append((AIME_TOGETHER, "AIME 24 and 25"))
    rewards = [("reward", "reward", "reward/mean")]
    rewards += dict.fromkeys(
        (key, f"{name} reward", key) for a in arms for name, key in a.record.reward_metrics().items()
    )
    return (
        *(Measure(key=key, label=f"{name} pass@1, %", scale=100.0, digits=1, metric=key) for key, name in sets),
        *(
            Measure(key=key, label=f"{name} at the end, points", scale=1.0, digits=3, metric=metric)
            for key, name, metric in rewards
        ),
        Measure(key="entropy", label="entropy at the end, nats", scale=1.0, digits=4, metric="policy/entropy"),
        Measure(key="eur", label="EUR, mean of the run, %", scale=100.0, digits=1, metric="gate/eur", last=0),
        Measure(
            key="samples_per_s",
            label="samples/s",
            scale=1.0,
            digits=0,
            metric="throughput/samples_per_s",
            last=0,
            compared=False,
        ),
    )


def value_of(record: RunRecord, measure: Measure, *, iteration: int) -> float | None:
    """The measure of one run, of the evaluation after `iteration` iterations; None where the run does not have it."""
    if measure.key.startswith("eval/"):
        row = record.evals.get(iteration, {})
        metrics = AIME if measure.key == AIME_TOGETHER else (measure.metric,)
        values = [row[name] for name in metrics] if row.keys() >= set(metrics) else []
    else:
        values = list(record.series(measure.metric).values())[-measure.last :]
    return float(np.mean(values)) if values else None


def _gate_summary(gate: str, kind: Kind, arms: Sequence[StudyArm], measures: Sequence[Measure]) -> GateSummary:
    values = {measure.key: _by_seed(arms, measure) for measure in measures}
    present = {key: by_seed for key, by_seed in values.items() if by_seed}
    means = {key: seed_mean(list(by_seed.values())) for key, by_seed in present.items()}
    return GateSummary(gate=gate, kind=kind, values=present, means=means)


def _by_seed(arms: Sequence[StudyArm], measure: Measure, *, trained: bool = True) -> dict[int, float]:
    """The measure of runs by seed, from the evaluations after training or before it; runs without it are absent."""
    found = {}
    for arm in sorted(arms, key=lambda arm: arm.seed):
        value = value_of(arm.record, measure, iteration=arm.record.config.num_iterations if trained else 0)
        if value is not None:  # replayed arms do not evaluate
            found[arm.seed] = value
    return found


def _pairs(gates: Sequence[GateSummary], kind: Kind, measure: Measure) -> list[Pair]:
    rows = [row for row in gates if row.kind == kind and measure.key in row.values]
    found = [
        (first.gate, second.gate, difference)
        for first, second in combinations(rows, 2)
        if (difference := paired_difference(first.values[measure.key], second.values[measure.key])) is not None
    ]
    verdicts = judge([difference for _, _, difference in found])
    return [
        Pair(measure=measure.key, kind=kind, first=first, second=second, difference=difference, verdict=verdict)
        for (first, second, difference), verdict in zip(found, verdicts, strict=True)
    ]


def _bands(gate: str, kind: Kind, metric: str, arms: Sequence[StudyArm]) -> list[Band]:
    """The band of a metric; empty where no run of the gate has the metric."""
    series = [arm.record.series(metric) for arm in arms]
    common = sorted(set.intersection(*(set(each) for each in series)))
    if not common:
        return []
    values = np.array([[each[iteration] for iteration in common] for each in series])  # [seeds, N]
    return [
        Band(
            metric=metric,
            gate=gate,
            kind=kind,
            iterations=np.array(common) + 1,
            mean=values.mean(axis=0),
            low=values.min(axis=0),
            high=values.max(axis=0),
        )
    ]
