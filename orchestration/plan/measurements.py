"""Small measurements of the real parts, by which orchestration/plan/calibration.py learns what this machine can do.

In: a RunConfig. Out: Measurements of one engine and one learner rank, side by side on their devices, and the time that
an iteration of a whole run takes. Starts what a run starts and ends it again. Fits nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import ray

from configs.schema import RunConfig
from learner.contract import TrainBatch
from orchestration.cluster import start_cluster
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE
from orchestration.parts import Parts, build_parts
from orchestration.plan.calibration import GenerationRun, LearnerRun, Measurements, PublishRun
from orchestration.stream.batches import to_train_batch
from orchestration.task_loading import load_task
from rollout.contract import GradedGroup, Prompt, SampledTokens, SamplingSpec
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder, prompt_renderer
from rollout.rewards.graders import await_verdicts
from rollout.tasks import Task

# Of a generation: of rollout.prompts_per_iteration, of rollout.max_new_tokens, of a prompt's tokens. The last is the
# largest with the run's own prompts: its groups are graded and trained on, and its lengths kept.
GENERATION_FACTORS = (
    (0.25, 0.25, 1.0),
    (0.25, 1.0, 1.0),
    (0.5, 0.5, 1.0),
    (0.5, 1.0, 3.0),
    (1.0, 0.25, 1.0),
    (1.0, 0.5, 1.0),
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 3.0),
    (2.0, 0.25, 1.0),
    (2.0, 0.5, 1.0),
    (2.0, 1.0, 1.0),
)
# Of a batch: of rollout.prompts_per_iteration, and of its completions' lengths.
BATCH_FACTORS = ((0.25, 1.0), (0.5, 2.0), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0))
WARMUP_ITERATIONS = 3
GRADING_TIMEOUT_S = 600.0
LONG_ENOUGH_S = 20.0  # of repeats of one measurement; where it takes longer, noise matters less
ResultT = TypeVar("ResultT")


def one_of_each(config: RunConfig, *, prompts_factor: float = 1.0, max_staleness: int = 0) -> RunConfig:
    """The configuration with one engine, one rank and one epoch, by which both can be timed alone."""
    tree = config.model_dump()
    prompts = max(1, round(prompts_factor * config.rollout.prompts_per_iteration))
    tree["rollout"] |= {
        "num_engines": 1,
        "record": None,
        "prompts_per_iteration": prompts,
        "batch_order": "prompt",
        "dynamic_sampling": False,
    }
    tree["learner"] |= {"num_workers": 1, "num_epochs": 1}
    tree["eval"] |= {"every": 0, "num_prompts": 1}
    tree["journal"] |= {"tensorboard": False, "progress": False}
    tree |= {"max_staleness": max_staleness, "resume": False, "dry_run": False}
    return RunConfig.model_validate(tree)


def measure_parts(config: RunConfig, model_path: Path | str, *, repeats: int) -> Measurements:
    """Generation, learner, publish and grading, each while the others rest; medians over repeats."""
    rollout = config.rollout
    num_prompts = max(1, round(max(factors[0] for factors in GENERATION_FACTORS) * rollout.prompts_per_iteration))
    config = one_of_each(config)
    task = load_task(config, lambda: model_path).task
    prompts = training_prompts(config, task, model_path, num_prompts)
    with (
        start_cluster(config.cluster, config.rollout, config.learner) as cluster,
        build_parts(config, cluster, model_path, task=task, start_iteration=0) as parts,
    ):
        versions = count()
        parts.channel.publish(next(versions))
        generation, groups = _measure_generation(parts, prompts, versions, repeats=repeats)
        grade_s, graded = grade_groups(parts, groups)
        return Measurements(
            generation=generation,
            learner=_measure_learner(parts, graded, repeats=repeats),
            publishes=_measure_publishes(parts, versions, repeats=repeats),
            grade_s=grade_s,
        )


def measure_run(config: RunConfig, *, num_iterations: int) -> dict[str, float]:
    """Means of the time/* and throughput/* metrics of a short run, its first iterations left out.

    Not medians: asynchronous iterations come long and short in turn.
    """
    from orchestration.session import train

    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        total = WARMUP_ITERATIONS + num_iterations
        update = {"num_iterations": total, "run_dir": str(run_dir), "resume": False, "dry_run": False}
        train(config.model_copy(update=update))
        rows = read_rows(run_dir / METRICS_FILE)[WARMUP_ITERATIONS:]
    names = [name for name in rows[0] if name.startswith(("time/", "throughput/"))]
    return {name: fmean(row[name] for row in rows) for name in names}


def training_prompts(config: RunConfig, task: Task, model_path: Path | str, num_prompts: int) -> list[Prompt]:
    """The first of the run's own stream."""
    tokenizer = load_tokenizer(str(model_path), trust_remote_code=config.model.trust_remote_code)
    encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
    stream = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
    return [stream.prompt_at(position) for position in range(num_prompts)]


def _measure_generation(
    parts: Parts, prompts: Sequence[Prompt], versions: Iterator[int], *, repeats: int
) -> tuple[tuple[GenerationRun, ...], list[object]]:
    """A run for each size, and the refs of the groups of the last.

    Equal seeds draw equal completions, so repeats differ in time only. Each is published a version of its own: its
    prompts are not found in the cache.
    """
    config, rollout = parts.config, parts.config.rollout
    runs: list[GenerationRun] = []
    group_refs: list[object] = []
    for prompts_factor, length_factor, stretch in GENERATION_FACTORS:
        room = config.model.max_model_len - rollout.max_new_tokens
        number = max(1, round(prompts_factor * rollout.prompts_per_iteration))
        chosen = [_stretched_prompt(prompt, stretch, max_tokens=room) for prompt in prompts[:number]]
        sampling = SamplingSpec(
            num_completions=rollout.completions_per_prompt,
            max_new_tokens=max(1, round(length_factor * rollout.max_new_tokens)),
            temperature=rollout.temperature,
            seed=config.seed,
        )
        timed = _repeated(partial(generate_groups, parts, chosen, sampling, versions), repeats=repeats)
        group_refs = timed[-1][1]
        groups = ray.get(group_refs)
        runs.append(
            GenerationRun(
                prompt_length=round(float(np.mean([len(prompt.token_ids) for prompt in chosen]))),
                lengths=tuple(tuple(each.tokens.num_sampled for each in group.completions) for group in groups),
                seconds=median(seconds for seconds, _ in timed),
            )
        )
    return tuple(runs), group_refs


def _stretched_prompt(prompt: Prompt, factor: float, *, max_tokens: int) -> Prompt:
    """The prompt said again, to so many times its length where there is room."""
    length = max(len(prompt.token_ids), min(max_tokens, round(factor * len(prompt.token_ids))))
    return replace(prompt, token_ids=np.resize(prompt.token_ids, length))


def _repeated(measure: Callable[[], ResultT], *, repeats: int) -> list[ResultT]:
    """Results of as many calls after one that is not counted; of fewer, one at least, where they take long."""
    measure()
    began, results = time.perf_counter(), [measure()]
    while len(results) < repeats and time.perf_counter() - began < LONG_ENOUGH_S:
        results.append(measure())
    return results


def generate_groups(
    parts: Parts, prompts: Sequence[Prompt], sampling: SamplingSpec, versions: Iterator[int]
) -> tuple[float, list[object]]:
    """Seconds from the first prompt to the last finished group, and the groups' refs; a publish first, not counted."""
    parts.channel.publish(next(versions))
    refs: list[object] = []
    started = time.perf_counter()
    for prompt in prompts:
        parts.fleet.submit(prompt, sampling)
    while parts.fleet.num_in_flight:
        refs += [group.group_ref for group in parts.fleet.await_finished()]
    return time.perf_counter() - started, refs


def grade_groups(parts: Parts, group_refs: Sequence[object]) -> tuple[float, list[GradedGroup]]:
    """Seconds of a completion in one process, and the graded groups."""
    groups = ray.get(list(group_refs))
    num_completions = sum(len(group.completions) for group in groups)
    for _ in range(2):  # the first pass builds the graders' tables
        started = time.perf_counter()
        verdicts = await_verdicts([parts.graders.grade(ref) for ref in group_refs], timeout_s=GRADING_TIMEOUT_S)
        seconds = time.perf_counter() - started
    num_processes = parts.config.graders.num_workers
    graded = [
        GradedGroup(group=group, verdicts=answer.verdicts) for group, answer in zip(groups, verdicts, strict=True)
    ]
    return seconds * num_processes / num_completions, graded


def _measure_learner(parts: Parts, graded: Sequence[GradedGroup], *, repeats: int) -> tuple[LearnerRun, ...]:
    """A run for each size: batches of other numbers of groups, and of sequences made shorter or longer."""
    config = parts.config
    runs: list[LearnerRun] = []
    least = -(-config.learner.num_minibatches // config.rollout.completions_per_prompt)  # a completion a minibatch
    for groups_factor, length_factor in BATCH_FACTORS:
        size = max(least, round(groups_factor * config.rollout.prompts_per_iteration))
        chosen = [graded[index % len(graded)] for index in range(size)]
        batch = _stretched(make_batch(parts, chosen), length_factor, max_tokens=config.model.max_model_len)
        timed = _repeated(partial(train_batch, parts, chosen, batch), repeats=repeats)
        runs.append(
            LearnerRun(
                lengths=tuple(len(sample.tokens.token_ids) for sample in batch.samples),
                num_steps=config.learner.num_minibatches,
                max_tokens=config.learner.max_tokens_per_micro_batch,
                load_s=median(load_s for load_s, _ in timed),
                update_s=median(update_s for _, update_s in timed),
            )
        )
    return tuple(runs)


def make_batch(parts: Parts, graded: Sequence[GradedGroup]) -> TrainBatch:
    """As if the groups had been sampled from the version that is served."""
    newest = max(completion.tokens.max_policy_version for each in graded for completion in each.group.completions)
    return to_train_batch(
        graded,
        policy_version=newest,
        objective=parts.config.objective,
        max_new_tokens=parts.config.rollout.max_new_tokens,
    )


def _stretched(batch: TrainBatch, factor: float, *, max_tokens: int) -> TrainBatch:
    """Completions cut short or said again, to so many times their length; what they say does not cost time."""

    def stretched(tokens: SampledTokens) -> SampledTokens:
        prompt_ids = tokens.token_ids[~tokens.completion_mask]
        length = max(1, min(max_tokens - len(prompt_ids), round(factor * tokens.num_sampled)))
        return SampledTokens.one_turn(
            prompt_ids,
            np.resize(tokens.sampled_ids, length),
            rollout_logprobs=np.resize(tokens.rollout_logprobs, length),
            version_starts=tokens.version_starts[:1],
        )

    return replace(batch, samples=tuple(replace(each, tokens=stretched(each.tokens)) for each in batch.samples))


def train_batch(parts: Parts, graded: Sequence[GradedGroup], batch: TrainBatch) -> tuple[float, float]:
    """Seconds of loading and of all steps, as the loop does them; batch is what the graded groups were made into."""
    started = time.perf_counter()
    make_batch(parts, graded)  # the loop makes one each time
    parts.learner.load(batch, 0)
    loaded = time.perf_counter()
    for _ in parts.learner.steps():
        pass
    return loaded - started, time.perf_counter() - loaded


def _measure_publishes(parts: Parts, versions: Iterator[int], *, repeats: int) -> tuple[PublishRun, ...]:
    reports = [parts.channel.publish(next(versions)) for _ in range(1 + 2 * repeats)][1:]
    return tuple(
        PublishRun(num_bytes=report.num_bytes, total_s=report.publish_s, send_s=report.send_s) for report in reports
    )
