"""Small measurements of the real parts, by which calibration.py learns what this machine can do.

In: a RunConfig. Out: Measurements of one engine and one learner rank, side by side on their devices, the time that an
iteration of a whole run takes, and with `calibrate` a file of what was fitted to both. Starts what a run starts and
ends it again.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, product
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import ray
from rich.console import Console

from configs.schema import RunConfig
from orchestration.cluster import start_cluster
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE
from orchestration.parts import Parts, build_parts
from orchestration.plan.calibration import (
    Calibration,
    MeasuredRun,
    Measurements,
    Timing,
    calibration_path,
    device_of,
    fit_costs,
    fit_runs,
    save_calibration,
)
from orchestration.plan.command import PlanRequest
from orchestration.plan.costs import generation_counts, update_counts
from orchestration.plan.model_shape import model_shape
from orchestration.plan.scenario import Scenario
from orchestration.stream.batches import to_train_batch
from orchestration.task_loading import load_task, locate_model
from orchestration.terminal.console import print_line, redirect_output
from rollout.contract import GradedGroup, Prompt, PromptGroup, SamplingSpec
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder, prompt_renderer
from rollout.rewards.graders import await_verdicts
from rollout.tasks import Task

REPEATS = 5  # of every measurement of a part
NUM_ITERATIONS = 10  # of a run, counted ones
# Factors of each measurement: of rollout.prompts_per_iteration, of rollout.max_new_tokens, of a prompt's tokens. The
# last is the largest with the run's own prompts: its grading is timed, and its lengths are kept.
SIZES = ((0.5, 1.0, 3.0), (1.0, 1.0, 3.0), *product((0.25, 1.0, 2.0), (0.25, 0.5, 1.0), (1.0,)))
RUNS = ((0.5, 0), (2.0, 0), (1.0, 1))  # of rollout.prompts_per_iteration, max_staleness: of each measured run
WARMUP_ITERATIONS = 3
GRADING_TIMEOUT_S = 600.0
LONG_ENOUGH_S = 20.0  # of repeats of one measurement; where it takes longer, noise matters less
ResultT = TypeVar("ResultT")


def calibrate(request: PlanRequest, console: Console) -> Path:
    """Measures with one engine and one rank, whatever the request's numbers of them; the path of the file."""
    shape, config = model_shape(request.config.model), one_of_each(request.config)
    device, path = device_of(config), calibration_path(request, shape)
    with TemporaryDirectory() as folder, redirect_output(Path(folder) / "calibration.log") as quiet:
        model_path = locate_model(config.model, quiet)
        print_line(quiet, "measuring engine, learner, publish and graders ...")
        measured = measure_parts(config, model_path)
        scenario = Scenario(
            config=config,
            shape=shape,
            device=device,
            device_bytes=None,
            prompt_length=measured.prompt_length,
            lengths=measured.lengths,
        )
        costs, errors = fit_costs(measured, num_scoring_passes=scenario.workload().num_scoring_passes)
        runs = []
        for prompts_factor, max_staleness in RUNS:
            if max_staleness and device != "cpu" and not config.cluster.shares_gpus:
                continue
            asked = one_of_each(config, prompts_factor=prompts_factor, max_staleness=max_staleness)
            prompts = asked.rollout.prompts_per_iteration
            print_line(quiet, f"measuring a run of {prompts} prompts an iteration, max_staleness={max_staleness} ...")
            iteration_s = measure_run(asked, num_iterations=NUM_ITERATIONS)["time/iteration_s"]
            runs.append(MeasuredRun(workload=replace(scenario, config=asked).workload(), iteration_s=iteration_s))
        calibration = Calibration(
            machine=f"{device}, {os.cpu_count()} cores",
            device=device,
            shape=shape,
            engine_dtype=scenario.engine_dtype,
            learner_dtype=scenario.learner_dtype,
            lora=config.learner.lora,
            costs=fit_runs(costs, runs),
            prompt_length=scenario.prompt_length,
            lengths=scenario.lengths,
            errors=errors,
        )
    save_calibration(calibration, path)
    print_line(console, f"calibration written to {path}")
    return path


def one_of_each(config: RunConfig, *, prompts_factor: float = 1.0, max_staleness: int = 0) -> RunConfig:
    """The configuration with one engine, one rank and one epoch, by which both can be timed alone."""
    tree = config.model_dump()
    prompts = max(1, round(prompts_factor * config.rollout.prompts_per_iteration))
    tree["rollout"] |= {"num_engines": 1, "record": None, "prompts_per_iteration": prompts}
    tree["rollout"] |= {"batch_order": "prompt", "dynamic_sampling": False}
    tree["learner"] |= {"num_workers": 1, "num_epochs": 1}
    tree["eval"] |= {"every": 0, "num_prompts": 1}
    tree["journal"] |= {"tensorboard": False, "progress": False}
    tree |= {"max_staleness": max_staleness, "resume": False, "dry_run": False}
    return RunConfig.model_validate(tree)


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


def measure_parts(config: RunConfig, model_path: Path | str) -> Measurements:
    """Generation, learner, publish and grading, each while the others rest; medians over repeats. Of one_of_each."""
    task = load_task(config, lambda: model_path).task
    prompts = training_prompts(config, task, model_path, _num_prompts(config, max(SIZES)[0]))
    with (
        start_cluster(config.cluster, config.rollout, config.learner) as cluster,
        build_parts(config, cluster, model_path, task=task, start_iteration=0) as parts,
    ):
        versions = count()
        parts.channel.publish(next(versions))
        generation, batches = [], []
        for size in SIZES:
            chosen, sampling = _sized(config, prompts, *size)
            timed = _repeated(partial(generate_groups, parts, chosen, sampling, versions))
            grade_s, graded = grade_groups(parts, timed[-1][1])
            batches.append(graded)
            lengths = [_completion_lengths(each.group) for each in graded]
            prompt_length = round(fmean(len(prompt.token_ids) for prompt in chosen))
            counts = generation_counts(lengths, prompt_length=prompt_length)
            generation.append(Timing(counts=counts, seconds=median(seconds for seconds, _ in timed)))
        loads, updates = zip(*(_measure_learner(parts, graded) for graded in batches), strict=True)
        publishes = [parts.channel.publish(next(versions)) for _ in range(1 + 2 * REPEATS)][1:]
    return Measurements(
        generation=tuple(generation),
        updates=updates,
        loads=loads,
        byte_s=median(report.send_s / report.num_bytes for report in publishes),
        publish_fixed_s=median(report.publish_s - report.send_s for report in publishes),
        grade_s=grade_s,
        prompt_length=prompt_length,
        lengths=tuple(sorted(length for group in lengths for length in group)),
    )


def training_prompts(config: RunConfig, task: Task, model_path: Path | str, num_prompts: int) -> list[Prompt]:
    """The first of the run's own stream."""
    tokenizer = load_tokenizer(str(model_path), trust_remote_code=config.model.trust_remote_code)
    encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
    stream = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
    return [stream.prompt_at(position) for position in range(num_prompts)]


def generate_groups(
    parts: Parts, prompts: Sequence[Prompt], sampling: SamplingSpec, versions: Iterator[int]
) -> tuple[float, list[object]]:
    """Seconds from the first prompt to the last finished group, and the groups' refs.

    A publish comes first, and is not counted: prompts are not found in the cache of a version of their own. Equal seeds
    draw equal completions, so repeats differ in time only.
    """
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
    started = time.perf_counter()
    verdicts = await_verdicts([parts.graders.grade(ref) for ref in group_refs], timeout_s=GRADING_TIMEOUT_S)
    seconds = time.perf_counter() - started
    graded = [GradedGroup(group=group, verdicts=each.verdicts) for group, each in zip(groups, verdicts, strict=True)]
    return seconds * parts.config.graders.num_workers / sum(len(group.completions) for group in groups), graded


def train_batch(parts: Parts, graded: Sequence[GradedGroup]) -> tuple[float, float]:
    """Seconds of making and loading the batch, and of all steps, as the loop does them."""
    started = time.perf_counter()
    # as if the groups had been sampled from the version that is served
    newest = max(one.tokens.max_policy_version for each in graded for one in each.group.completions)
    objective, max_new_tokens = parts.config.objective, parts.config.rollout.max_new_tokens
    parts.learner.load(
        to_train_batch(graded, policy_version=newest, objective=objective, max_new_tokens=max_new_tokens), 0
    )
    loaded = time.perf_counter()
    for _ in parts.learner.steps():
        pass
    return loaded - started, time.perf_counter() - loaded


def _num_prompts(config: RunConfig, factor: float) -> int:
    """So many times an iteration's prompts, and enough for a completion a minibatch."""
    least = -(-config.learner.num_minibatches // config.rollout.completions_per_prompt)
    return max(least, round(factor * config.rollout.prompts_per_iteration))


def _sized(
    config: RunConfig, prompts: Sequence[Prompt], number: float, length: float, stretch: float
) -> tuple[list[Prompt], SamplingSpec]:
    """What one of SIZES says: prompts, said again to so many times their length where there is room; and sampling."""
    rollout = config.rollout
    room = config.model.max_model_len - rollout.max_new_tokens
    chosen = []
    for prompt in prompts[: _num_prompts(config, number)]:
        size = len(prompt.token_ids)
        token_ids = np.resize(prompt.token_ids, max(size, min(room, round(stretch * size))))
        chosen.append(replace(prompt, token_ids=token_ids))
    sampling = SamplingSpec(
        num_completions=rollout.completions_per_prompt,
        max_new_tokens=max(1, round(length * rollout.max_new_tokens)),
        temperature=rollout.temperature,
        seed=config.seed,
    )
    return chosen, sampling


def _repeated(measure: Callable[[], ResultT]) -> list[ResultT]:
    """Results of REPEATS calls after one that is not counted; of fewer, one at least, where they take long."""
    measure()
    began, results = time.perf_counter(), [measure()]
    while len(results) < REPEATS and time.perf_counter() - began < LONG_ENOUGH_S:
        results.append(measure())
    return results


def _measure_learner(parts: Parts, graded: Sequence[GradedGroup]) -> tuple[Timing, Timing]:
    """Loading a batch, and its optimizer steps."""
    learner = parts.config.learner
    timed = _repeated(partial(train_batch, parts, graded))
    lengths = [
        len(each.group.prompt.token_ids) + length for each in graded for length in _completion_lengths(each.group)
    ]
    update = update_counts(lengths, num_steps=learner.num_minibatches, max_tokens=learner.max_tokens_per_micro_batch)
    return (
        Timing(counts={"load_s": 1.0, "sample_s": float(len(lengths))}, seconds=median(load_s for load_s, _ in timed)),
        Timing(counts=update, seconds=median(update_s for _, update_s in timed)),
    )


def _completion_lengths(group: PromptGroup) -> list[int]:
    return [completion.tokens.num_sampled for completion in group.completions]
