"""Evaluation on the rollout engines: prompts in, graded samples out.

In: a fleet, graders, the prompts of a set and how to sample. Out: the samples of each problem as it is graded, in any
order; or, for a run, all sets with their metrics. It leaves the engines as it found them: training groups in flight
meanwhile go on and stay with the caller's fleet.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from configs.evaluation import EvalConfig
from configs.schema import RolloutConfig
from orchestration.eval_records import EvalSample, Evaluation, in_order
from orchestration.eval_summary import summarize
from rollout.contract import GroupVerdicts, Prompt, PromptGroup, SamplingSpec
from rollout.fleet import RolloutFleet
from rollout.graders import GraderPool, await_verdicts
from rollout.prompts import make_prompt
from rollout.tasks import Problem

Encode = Callable[[str], list[int]]
Render = Callable[[str], str]


def eval_prompts(problems: Sequence[Problem], config: EvalConfig, encode: Encode, render: Render) -> tuple[Prompt, ...]:
    """The prompts of a set's problems, as many as the configuration asks for; their index is that of the problem."""
    chosen = chosen_problems(problems, config)
    return tuple(make_prompt(problem, encode, index=index, render=render) for index, problem in enumerate(chosen))


def chosen_problems(problems: Sequence[Problem], config: EvalConfig) -> Sequence[Problem]:
    """The first eval.num_prompts of a set."""
    return problems if isinstance(config.num_prompts, str) else problems[: config.num_prompts]


def eval_sampling(config: EvalConfig, rollout: RolloutConfig, *, name: str) -> SamplingSpec:
    """How the samples of a set are drawn: each has a seed derived from (eval.seed, set, problem, sample)."""
    mixed = hashlib.blake2b(f"{config.seed}/{name}".encode(), digest_size=8).digest()
    return SamplingSpec(
        num_completions=config.samples,
        max_new_tokens=config.limit_new_tokens(rollout.max_new_tokens),
        temperature=config.temperature,
        top_p=config.top_p,
        seed=int.from_bytes(mixed, "big"),
    )


def evaluate_sets(
    fleet: RolloutFleet,
    graders: GraderPool,
    sets: Mapping[str, Sequence[Prompt]],
    config: EvalConfig,
    rollout: RolloutConfig,
) -> Evaluation:
    """Every set with the weights that the engines serve."""
    samples: dict[str, Sequence[EvalSample]] = {}
    metrics: dict[str, float] = {}
    for name, prompts in sets.items():
        sampling = eval_sampling(config, rollout, name=name)
        graded = graded_samples(fleet, graders, prompts, sampling, name=name, timeout_s=rollout.timeout_s)
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
    timeout_s: float,
) -> Iterator[list[EvalSample]]:
    """The samples of one problem at a time, as soon as they are graded.

    Waits for engines and graders; EngineError or GradingError where one fails or keeps silent for timeout_s.
    """
    fleet = fleet.sibling()
    for prompt in prompts:
        fleet.submit(prompt, sampling)
    grading: dict[Any, Any] = {}  # reference of verdicts -> reference of their group
    while fleet.num_in_flight or grading:
        if fleet.num_in_flight:
            for finished in fleet.await_finished():
                grading[graders.grade(finished.group_ref)] = finished.group_ref
        done = _graded(grading, at_least_one=not fleet.num_in_flight)
        for verdicts_ref, verdicts in zip(done, await_verdicts(done, timeout_s=timeout_s), strict=True):
            yield _samples(ray.get(grading.pop(verdicts_ref)), verdicts, name=name)


def _graded(grading: Mapping[Any, Any], *, at_least_one: bool) -> list[Any]:
    """References of verdicts that are there by now; at_least_one: else the oldest, to be waited for."""
    waiting = list(grading)
    done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
    return done or waiting[: int(at_least_one)]


def _samples(group: PromptGroup, verdicts: GroupVerdicts, *, name: str) -> list[EvalSample]:
    return [
        EvalSample(
            set=name,
            problem=group.prompt.index,
            sample=index,
            prompt=group.prompt.text,
            reference=group.prompt.reference_answer,
            completion=completion.text,
            length=len(completion.token_ids),
            finished=completion.finished,
            format=verdict.format,
            answer=verdict.answer,
        )
        for index, (completion, verdict) in enumerate(zip(group.completions, verdicts.verdicts, strict=True))
    ]
