"""Evaluation on the rollout engines: prompts in, graded samples out.

In: a fleet, graders, the prompts of a set and the sampling. Out: the samples of each problem as it is graded, in any
order; or, for a run, all sets with their metrics. Training groups in flight continue meanwhile, and the caller's fleet
returns them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from configs.evaluation import EvalConfig
from configs.schema import RolloutConfig
from orchestration.evaluate.prompts import eval_sampling
from orchestration.evaluate.summary import summarize
from orchestration.journal.eval_rows import EvalSample, Evaluation, in_order
from rollout.contract import GroupVerdicts, Prompt, PromptGroup, SamplingSpec
from rollout.fleets.fleet import RolloutFleet
from rollout.rewards.graders import GraderPool, await_verdicts

BEFORE_TRAINING = -1  # place of evaluation prompts that wait for room: first, as the driver waits for them alone


def evaluate_sets(
    fleet: RolloutFleet,
    graders: GraderPool,
    sets: Mapping[str, Sequence[Prompt]],
    config: EvalConfig,
    rollout: RolloutConfig,
) -> Evaluation:
    """Evaluates every set with the weights that the engines serve."""
    samples: dict[str, Sequence[EvalSample]] = {}
    metrics: dict[str, float] = {}
    for name, prompts in sets.items():
        sampling = eval_sampling(config, rollout, name=name)
        graded = graded_samples(fleet, graders, prompts, sampling, name=name)
        samples[name] = in_order(sample for of_problem in graded for sample in of_problem)
        metrics |= summarize(samples[name], name=name)
    return Evaluation(metrics=metrics, samples=samples)


def graded_samples(
    fleet: RolloutFleet,
    graders: GraderPool,
    prompts: Sequence[Prompt],
    sampling: SamplingSpec,
    *,
    name: str,
) -> Iterator[list[EvalSample]]:
    """Yields the samples of one problem at a time, as soon as they are graded.

    Waits for engines and graders; EngineError or GradingError where they fail or do not get on.
    """
    fleet = fleet.sibling(grade=graders.grade)
    for prompt in prompts:
        fleet.submit(prompt, sampling, due=BEFORE_TRAINING)
    grading: dict[Any, Any] = {}  # reference of a group by the future of its verdicts
    while fleet.num_in_flight or grading:
        if fleet.num_in_flight:
            for finished in fleet.await_finished():
                grading[finished.verdicts_ref] = finished.group_ref
        done = [verdicts_ref for verdicts_ref in grading if verdicts_ref.done()]
        if not done and not fleet.num_in_flight:
            done = list(grading)[:1]  # the oldest, to wait for
        for verdicts_ref, verdicts in zip(done, await_verdicts(done), strict=True):
            yield _samples(ray.get(grading.pop(verdicts_ref)), verdicts, name=name)


def _samples(group: PromptGroup, verdicts: GroupVerdicts, *, name: str) -> list[EvalSample]:
    return [
        EvalSample(
            set=name,
            problem=group.prompt.position,
            sample=index,
            prompt=group.prompt.text,
            reference=group.prompt.reference_answer,
            completion=completion.text,
            length=completion.tokens.num_sampled,
            finished=completion.finished,
            format=verdict.value("format"),
            answer=verdict.value("answer"),
        )
        for index, (completion, verdict) in enumerate(zip(group.completions, verdicts.verdicts, strict=True))
    ]
