"""The paper's findings measured on a study's runs, and warnings for the reader.

In: the finished arms. Out: how soon each gate learns the format, how entropy and EUR move together, how far ratios went
from 1, and warnings. Pure; the statistics are those of orchestration/statistics/seeds.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs.differences import differences
from configs.gates import CustomGateConfig
from orchestration.journal.run_record import combined_digest
from orchestration.statistics.seeds import SeedMean, correlation, seed_mean
from orchestration.study.result import KINDS, StudyArm, by_gate
from orchestration.study.settings import Kind

FORMAT_TARGET = 0.9
RATIO_REACH = 0.01  # distance from 1 within which all gates train alike
# Settings that may differ between the arms of a study.
NOT_COMPARED = ("gate", "seed", "run_dir", "resume", "dry_run", "cluster", "journal", "checkpoint", "publish")
NOT_COMPARED_ROLLOUT = ("rollout.record", "rollout.replay")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateClaims:
    """The paper's findings for one gate; means over seeds, None where no seed has the number."""

    gate: str
    kind: Kind
    reached: Mapping[int, int | None]  # first iteration, from 1, with a format reward of FORMAT_TARGET, by seed
    iteration: SeedMean | None  # mean of that iteration over the seeds that reached the target
    times_sooner: SeedMean | None  # geometric mean of the clip's iteration / this gate's, over seeds that have both
    levels: SeedMean | None  # Pearson correlation of policy entropy and EUR over the iterations of a run
    changes: SeedMean | None  # the same of their changes between iterations, without the trend that both share
    entropy: SeedMean | None  # mean of the run, nats
    ratio_variance: SeedMean | None  # mean of the run
    largest_ratio: float | None  # over all seeds
    largest_grad_norm: float | None  # over all seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPrompts:
    """Whether the arms of one seed saw the same prompts and first completions."""

    seed: int
    fingerprint: str | None  # digest of the recorded prompts in stream order; None: none recorded, or arms differ
    same_prompts: bool | None  # None: none recorded
    same_first_completions: bool | None  # completions of the initial model with equal seeds; None: none recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """The findings of every gate, and what a reader must know about the runs."""

    baseline: str | None  # gate that times_sooner refers to
    gates: tuple[GateClaims, ...]
    prompts: tuple[SeedPrompts, ...]
    warnings: tuple[str, ...]


def measure_claims(arms: Sequence[StudyArm]) -> Claims:
    """The claims of finished arms, gates in the order in which they first appear."""
    groups = by_gate(arms)
    baseline = next((arm.gate for arm in arms if arm.record.config.gate.name == "clip"), None)
    prompts = tuple(_prompts_of(seed, arms) for seed in sorted({arm.seed for arm in arms}))
    return Claims(
        baseline=baseline,
        gates=tuple(
            _gate_claims(gate, kind, group, clip=[] if gate == baseline else groups.get((baseline or "", kind), []))
            for (gate, kind), group in groups.items()
        ),
        prompts=prompts,
        warnings=tuple(_warnings(arms, prompts)),
    )


def first_iteration_at(arm: StudyArm, target: float) -> int | None:
    """The first iteration, counted from 1, whose mean format reward is at least the target."""
    series = arm.record.series("reward/format")
    return next((iteration + 1 for iteration in sorted(series) if series[iteration] >= target), None)


def stayed_at_one(arm: StudyArm) -> bool:
    """Whether every ratio stayed within RATIO_REACH of 1."""
    largest, smallest = (arm.record.series(f"ratio/{end}").values() for end in ("max", "min"))
    return bool(largest) and max(largest) <= 1.0 + RATIO_REACH and min(smallest, default=1.0) >= 1.0 - RATIO_REACH


def _gate_claims(gate: str, kind: Kind, arms: Sequence[StudyArm], *, clip: Sequence[StudyArm]) -> GateClaims:
    """clip: the arms to compare with, none for the clip itself."""
    reached, baseline = ({arm.seed: first_iteration_at(arm, FORMAT_TARGET) for arm in each} for each in (arms, clip))
    found = {seed: iteration for seed, iteration in reached.items() if iteration is not None}
    logs = [math.log(other / found[seed]) for seed, other in baseline.items() if seed in found and other is not None]
    correlations = [_correlations(arm) for arm in arms]

    def means(metric: str) -> SeedMean | None:
        series = [list(arm.record.series(metric).values()) for arm in arms]
        return _mean_of([float(np.mean(values)) if values else None for values in series])

    def largest(metric: str) -> float | None:
        return max((value for arm in arms for value in arm.record.series(metric).values()), default=None)

    return GateClaims(
        gate=gate,
        kind=kind,
        reached=reached,
        iteration=_mean_of(list(found.values())),
        times_sooner=seed_mean(logs).transformed(math.exp) if logs else None,
        levels=_mean_of([levels for levels, _ in correlations]),
        changes=_mean_of([changes for _, changes in correlations]),
        entropy=means("policy/entropy"),
        ratio_variance=means("ratio/variance"),
        largest_ratio=largest("ratio/max"),
        largest_grad_norm=largest("grad_norm"),
    )


def _correlations(arm: StudyArm) -> tuple[float | None, float | None]:
    """Correlation of a run's entropy and EUR, and of their changes from one iteration to the next."""
    entropy, eur = arm.record.series("policy/entropy"), arm.record.series("gate/eur")
    common = sorted(entropy.keys() & eur.keys())
    first, second = [entropy[iteration] for iteration in common], [eur[iteration] for iteration in common]
    return correlation(first, second), correlation(np.diff(first).tolist(), np.diff(second).tolist())


def _mean_of(values: Sequence[float | None]) -> SeedMean | None:
    present = [value for value in values if value is not None]
    return seed_mean(present) if present else None


def _prompts_of(seed: int, arms: Sequence[StudyArm]) -> SeedPrompts:
    """Prompts and first completions, compared at the positions that all arms of the seed recorded."""
    records = [arm.record for arm in arms if arm.seed == seed]
    prompts = _digests([record.prompts for record in records])
    completions = _digests([record.first_completions for record in records if record.first_completions])
    return SeedPrompts(
        seed=seed,
        fingerprint=min(prompts) if len(prompts) == 1 else None,
        same_prompts=len(prompts) == 1 if prompts else None,
        same_first_completions=len(completions) == 1 if completions else None,
    )


def _digests(recorded: Sequence[Mapping[int, str]]) -> set[str]:
    """One digest for each different record, over the positions that all have; empty where there are none."""
    common = set(recorded[0]).intersection(*recorded[1:]) if recorded else set()
    return {combined_digest({position: each[position] for position in common}) for each in recorded if common}


def _warnings(arms: Sequence[StudyArm], prompts: Sequence[SeedPrompts]) -> list[str]:
    found = []
    if still := [arm.record.name for arm in arms if stayed_at_one(arm)]:
        found.append(
            f"Ratios never left 1 ± 1 % in {', '.join(still)}: there every gate has a slope near 1 and trains alike. "
            f"Raise learner.num_minibatches, learner.num_epochs, learner.lr or max_staleness."
        )
    for arm in arms:
        gate = arm.record.config.gate
        if isinstance(gate, CustomGateConfig) and gate.allow_inadmissible:
            notices = [notice for notice in arm.record.notices if notice.startswith("gate.allow_inadmissible")]
            found.append(f"{arm.record.name} trained with gate.allow_inadmissible=true. {' '.join(notices)}".rstrip())
    for kind in KINDS:
        records = [arm.record for arm in arms if arm.kind == kind]
        names = sorted(
            {
                name
                for record in records[1:]
                for name, _, _ in differences(records[0].config, record.config)
                if name.partition(".")[0] not in NOT_COMPARED and name not in NOT_COMPARED_ROLLOUT
            }
        )
        if names:
            found.append(f"Arms differ in more than gate and seed: {', '.join(names)}.")
    if len({arm.seed for arm in arms}) == 1:
        found.append("One seed only: no intervals, and no difference can be told from chance.")
    for seed in prompts:
        if seed.same_prompts is False:
            found.append(f"Seed {seed.seed}: arms saw different prompts.")
        if seed.same_first_completions is False:
            found.append(f"Seed {seed.seed}: arms sampled different completions from the initial model.")
    return found
