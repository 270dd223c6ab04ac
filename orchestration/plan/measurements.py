"""Small measurements of the real parts on this machine, to which calibration.py fits Costs.

In: a RunConfig. Out: a Calibration from one engine, one learner rank and three short runs, and its file. Starts what a
run starts and ends it again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, product
from math import ceil
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import ray
from rich.console import Console

from configs.files import write_atomically
from configs.schema import RunConfig
from orchestration.cluster import start_cluster
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE
from orchestration.parts import Parts, build_parts
from orchestration.plan.calibration import (
    FILE,
    Calibration,
    Timing,
    device_of,
    fit_parts,
    fit_runs,
    kept_path,
)
from orchestration.plan.costs import Costs, generation_counts, update_counts
from orchestration.plan.scenario import Scenario, model_shape
from orchestration.startup.folders import create, refusing_unwritable
from orchestration.stream.batches import to_train_batch
from orchestration.task_loading import load_task, locate_model
from orchestration.terminal.console import print_line, redirect_output
from rollout.contract import GradedGroup, Prompt, SamplingSpec
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder, prompt_renderer
from rollout.rewards.graders import await_verdicts
from rollout.tasks import Task

REPEATS = 5  # times that each part is measured
NUM_ITERATIONS = 10  # counted iterations of a run
# Factors of each measurement: of rollout.prompts_per_iteration, of rollout.max_new_tokens, of a prompt's tokens. The
# last one, the largest with the run's own prompts, also gives the time of grading and the sample of lengths.
SIZES = ((0.5, 1.0, 3.0), (1.0, 1.0, 3.0), *product((0.25, 1.0, 2.0), (0.25, 0.5, 1.0), (1.0,)))
RUNS = ((0.5, 0), (2.0, 0), (1.0, 1))  # factor of rollout.prompts_per_iteration, and max_staleness, of each run
WARMUP_ITERATIONS = 3
LONG_ENOUGH_S = 20.0  # seconds of a measurement after which it is not repeated
ResultT = TypeVar("ResultT")


def calibrate(config: RunConfig, named: str | None, console: Console) -> Path:
    """Measures with one engine and one rank, whatever the configured numbers of them; returns the path of the file."""
    shape, config, device = model_shape(config.model.path), one_of_each(config), device_of(config)
    scenario = Scenario(config=config, shape=shape, device=device, device_bytes=None, prompt_length=1, lengths=(1,))
    path = Path(named or kept_path(shape, device))
    with refusing_unwritable(f"calibration={path}"):  # before minutes of measuring
        create(path.parent)
        path.open("ab").close()
        if not path.stat().st_size:
            path.unlink()
    with TemporaryDirectory() as folder, redirect_output(Path(folder) / "calibration.log") as quiet:
        model_path = locate_model(config.model, quiet)
        print_line(quiet, "measuring this machine, which takes some minutes ...")
        found = measure_parts(scenario, model_path)
        scenario = replace(scenario, prompt_length=found.prompt_length, lengths=found.lengths)
        runs = []
        for prompts_factor, max_staleness in RUNS:
            if max_staleness and device != "cpu" and not config.cluster.shares_gpus:
                continue
            asked = one_of_each(config, prompts_factor=prompts_factor, max_staleness=max_staleness)
            iteration_s = measure_run(asked, num_iterations=NUM_ITERATIONS)["time/iteration_s"]
            runs.append((replace(scenario, config=asked).workload(), iteration_s))
    found = replace(found, costs=fit_runs(found.costs, runs))
    write_atomically(path, FILE.dump_json(found, indent=1) + b"\n")
    print_line(console, f"calibration written to {path}")
    return path


def one_of_each(config: RunConfig, *, prompts_factor: float = 1.0, max_staleness: int = 0) -> RunConfig:
    """The configuration with one engine, one rank and one epoch, so that each can be timed alone."""
    tree = config.model_dump()
    prompts = max(1, round(prompts_factor * config.rollout.prompts_per_iteration))
    tree["rollout"] |= {"num_engines": 1, "record": None, "prompts_per_iteration": prompts}
    tree["rollout"] |= {"batch_order": "prompt", "dynamic_sampling": False}
    tree["learner"] |= {"num_workers": 1, "num_epochs": 1}
    tree["eval"] |= {"every": 0, "num_prompts": 1}
    tree["journal"] |= {"tensorboard": False, "progress": False}
    tree |= {"max_staleness": max_staleness, "resume": False, "resume_force": False, "dry_run": False}
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


def measure_parts(scenario: Scenario, model_path: Path | str) -> Calibration:
    """Measures generation, learner, publish and grading, each while the others rest, with one engine and one rank."""
    config, learner = scenario.config, scenario.config.learner
    task = load_task(config, lambda: model_path).task
    with (
        start_cluster(config.cluster, config.rollout, learner) as cluster,
        build_parts(config, cluster, model_path, task=task, start_iteration=0) as parts,
    ):
        versions = count()
        parts.channel.publish(next(versions))
        generation, batches, loads, updates = [], [], [], []
        for size in SIZES:
            prompts, sampling = _sized(config, task, model_path, *size)
            timed = _repeated(partial(generate_groups, parts, prompts, sampling, versions))
            grade_s, graded = grade_groups(parts, timed[-1][1])
            batches.append(graded)
            lengths = [[each.tokens.num_sampled for each in one.group.completions] for one in graded]
            prompt_length = round(fmean(len(prompt.token_ids) for prompt in prompts))
            counts = generation_counts(lengths, prompt_length=prompt_length)
            generation.append(Timing(counts=counts, seconds=median(seconds for seconds, _ in timed)))
        for graded in batches:
            trained = _repeated(partial(train_batch, parts, graded))
            sequences = [len(each.tokens.completion_mask) for one in graded for each in one.group.completions]
            samples = {"load_s": 1.0, "sample_s": float(len(sequences))}
            loads.append(Timing(counts=samples, seconds=median(load_s for load_s, _ in trained)))
            counts = update_counts(
                sequences, num_steps=learner.num_minibatches, max_tokens=learner.max_tokens_per_micro_batch
            )
            updates.append(Timing(counts=counts, seconds=median(update_s for _, update_s in trained)))
        publishes = [parts.channel.publish(next(versions)) for _ in range(1 + 2 * REPEATS)][1:]
    passes = scenario.num_scoring_passes
    engine_costs, learner_costs, errors = fit_parts(generation, updates, loads, num_scoring_passes=passes)
    byte_s = median(report.send_s / report.num_bytes for report in publishes)
    return Calibration(
        device=scenario.device,
        shape=scenario.shape,
        engine_dtype=scenario.engine_dtype,
        learner_dtype=scenario.learner_dtype,
        costs=Costs(
            engine=engine_costs,
            learner=learner_costs,
            byte_s=byte_s,
            network_byte_s=byte_s,
            devices_per_node=1,
            publish_fixed_s=median(report.publish_s - report.send_s for report in publishes),
            publishes_by_tree=True,
            grade_s=grade_s,
        ),
        prompt_length=prompt_length,
        lengths=tuple(sorted(length for group in lengths for length in group)),
        errors=errors,
    )


def training_prompts(config: RunConfig, task: Task, model_path: Path | str, num_prompts: int) -> list[Prompt]:
    """The first prompts of the run's own stream."""
    tokenizer = load_tokenizer(str(model_path), trust_remote_code=config.model.trust_remote_code)
    encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
    stream = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
    return [stream.prompt_at(position) for position in range(num_prompts)]


def generate_groups(
    parts: Parts, prompts: Sequence[Prompt], sampling: SamplingSpec, versions: Iterator[int]
) -> tuple[float, list[object]]:
    """Seconds from the first prompt to the last finished group, and the groups' refs.

    A publish comes first and is not counted: it empties the engine's cache of prompts. Equal seeds draw equal
    completions, so repeats differ in time only.
    """
    parts.channel.publish(next(versions))
    refs, started = list[object](), time.perf_counter()
    for prompt in prompts:
        parts.fleet.submit(prompt, sampling)
    while parts.fleet.num_in_flight:
        refs += [group.group_ref for group in parts.fleet.await_finished()]
    return time.perf_counter() - started, refs


def grade_groups(parts: Parts, group_refs: Sequence[object]) -> tuple[float, list[GradedGroup]]:
    """Seconds of grading a completion in one process, and the graded groups."""
    groups = ray.get(list(group_refs))
    started = time.perf_counter()
    verdicts = await_verdicts([parts.graders.grade(ref) for ref in group_refs])
    seconds = time.perf_counter() - started
    graded = [GradedGroup(group=group, verdicts=each.verdicts) for group, each in zip(groups, verdicts, strict=True)]
    return seconds * parts.config.graders.num_workers / sum(len(group.completions) for group in groups), graded


def train_batch(parts: Parts, graded: Sequence[GradedGroup]) -> tuple[float, float]:
    """Seconds of making and loading the batch, and of all steps, as the loop does them."""
    started, config = time.perf_counter(), parts.config
    # as if the groups had been sampled from the version that is served
    newest = max(one.tokens.max_policy_version for each in graded for one in each.group.completions)
    limit = config.rollout.max_new_tokens
    batch = to_train_batch(graded, policy_version=newest, objective=config.objective, max_new_tokens=limit)
    parts.learner.load(batch, 0)
    loaded = time.perf_counter()
    for _ in parts.learner.steps():
        pass
    return loaded - started, time.perf_counter() - loaded


def _sized(
    config: RunConfig, task: Task, model_path: Path | str, number: float, length: float, stretch: float
) -> tuple[list[Prompt], SamplingSpec]:
    """Prompts and sampling of one of SIZES; prompts are repeated to `stretch` times their length if there is room."""
    rollout = config.rollout
    least = ceil(config.learner.num_minibatches / rollout.completions_per_prompt)  # a completion a minibatch
    room = config.model.max_model_len - rollout.max_new_tokens
    chosen = []
    for prompt in training_prompts(config, task, model_path, max(least, round(number * rollout.prompts_per_iteration))):
        size = len(prompt.token_ids)
        token_ids = np.resize(prompt.token_ids, max(size, min(room, round(stretch * size))))
        chosen.append(replace(prompt, token_ids=token_ids))
    return chosen, SamplingSpec(
        num_completions=rollout.completions_per_prompt,
        max_new_tokens=max(1, round(length * rollout.max_new_tokens)),
        temperature=rollout.temperature,
        seed=config.seed,
    )


def _repeated(measure: Callable[[], ResultT]) -> list[ResultT]:
    """Results of REPEATS calls after one that is not counted; of fewer, at least one, if they take long."""
    measure()
    began, results = time.perf_counter(), [measure()]
    while len(results) < REPEATS and time.perf_counter() - began < LONG_ENOUGH_S:
        results.append(measure())
    return results
