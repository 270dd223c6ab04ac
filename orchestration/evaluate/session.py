"""One evaluation by the command, from its folder to its table.

In: an EvaluateRequest. Out: a folder of rows, and a table on the console. All checks come first. Engines start only if
samples are missing, and serve the weights that they load from the model's folder.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.loading import ConfigError
from configs.schema import ModelConfig, RunConfig
from orchestration.cluster import start_cluster
from orchestration.evaluate.command import AUTO_OUT, EvaluateRequest
from orchestration.evaluate.prompts import chosen_problems, eval_prompts, eval_sampling
from orchestration.evaluate.records import EvalFolder
from orchestration.evaluate.summary import summarize, summary_table
from orchestration.journal.eval_rows import EvalSample
from orchestration.recovery.faults import Faults
from orchestration.startup.ownership import own
from orchestration.startup.preflight import preflight_into, refuse
from orchestration.task_loading import locate_model, model_tokenizer
from orchestration.terminal.console import print_line, progress_of, redirect_output
from rollout.contract import Prompt
from rollout.prompts import PromptStyleError, prompt_encoder, prompt_renderer
from rollout.tasks import Problem, build_task
from rollout.tasks.data_sets import DataSetError
from rollout.tasks.embedded_model import EmbeddedRecipe

LOG_FILE = "evaluate.log"
ROOT = Path("evals")
SAMPLED_PLACES = 16  # places read in a weights file; training changes every weight, so a few distinguish two models
SAMPLED_BYTES = 65_536


def evaluate_model(request: EvaluateRequest) -> dict[str, float]:
    """Evaluates the sets and returns their metrics; however it ends, no process is left and the rows are kept."""
    config = request.config
    try:  # before anything starts
        sets = build_task(config.task.for_evaluation(request.sets)).eval_sets()
    except DataSetError as error:
        raise ConfigError(str(error).splitlines()) from error
    problems = {name: chosen_problems(sets[name], config.eval) for name in request.sets}
    settings = settings_of(config)
    folder = default_folder(settings) if request.out == AUTO_OUT else Path(request.out)
    refuse(preflight_into(folder, [config], key="out", trains=False))
    with own(folder, setting="out") as notices:
        return _evaluate(config, problems, EvalFolder(folder, settings), notices)


def _evaluate(
    config: RunConfig, problems: Mapping[str, Sequence[Problem]], records: EvalFolder, notices: Sequence[str]
) -> dict[str, float]:
    num_samples = config.eval.samples
    present = {name: records.begin(name, of_set, num_samples=num_samples) for name, of_set in problems.items()}

    with redirect_output(records.folder / LOG_FILE) as console:
        print_line(console, f"evaluation in {records.folder}; what libraries print goes to {LOG_FILE} there")
        for line in notices:
            print_line(console, line)
        missing = {name: len(of_set) * num_samples - len(present[name]) for name, of_set in problems.items()}
        if num_present := sum(map(len, present.values())):
            print_line(
                console, f"{num_present:,} samples are in the folder already, {sum(missing.values()):,} to sample"
            )
        if any(missing.values()):
            _draw(config, {name: problems[name] for name in problems if missing[name]}, present, records, console)
        metrics: dict[str, float] = {}
        for name in problems:
            of_set = summarize(present[name], name=name)
            records.finish(name, present[name], of_set)
            metrics |= of_set
        counts = {name: len(of_set) for name, of_set in problems.items()}
        console.print(summary_table(metrics, counts, num_samples=num_samples))
        return metrics


def _draw(
    config: RunConfig,
    problems: Mapping[str, Sequence[Problem]],
    present: Mapping[str, list[EvalSample]],
    records: EvalFolder,
    console: Console,
) -> None:
    """Samples what is missing; each problem's samples go to the folder and to `present` as soon as they are graded."""
    with start_cluster(config.cluster, config.rollout, None, notice=partial(print_line, console)) as cluster:
        print_line(console, f"on {cluster.device}: {cluster.placement.describe()}")
        model_path = locate_model(config.model, console)
        prompts = _prompts(config, model_path, problems)
        print_line(console, "starting engines ...")
        # Imported here because they import torch, for which a refused evaluation should not wait.
        from orchestration.evaluate.drawing import graded_samples
        from orchestration.rollout_parts import open_rollout_side

        faults = Faults(partial(print_line, console), max_restarts=config.recovery.max_restarts)
        with open_rollout_side(config, cluster, model_path, faults) as rollout:
            rollout.await_ready()
            rollout.serve_loaded_weights()
            for name, of_set in prompts.items():
                done = {sample.problem for sample in present[name]}
                left = [prompt for prompt in of_set if prompt.position not in done]
                sampling = eval_sampling(config.eval, config.rollout, name=name)
                with progress_of(console, name) as progress:
                    progress(len(of_set) - len(left), len(of_set))
                    for samples in graded_samples(rollout.fleet, rollout.graders, left, sampling, name=name):
                        records.append(name, samples)
                        present[name].extend(samples)
                        progress(len(present[name]) // config.eval.samples, len(of_set))


def _prompts(
    config: RunConfig, model_path: Path | str, problems: Mapping[str, Sequence[Problem]]
) -> dict[str, tuple[Prompt, ...]]:
    """Prompts of each set; ConfigError if the tokenizer does not fit the prompt style, or a prompt is too long."""
    tokenizer = model_tokenizer(config.model, model_path)
    try:
        render = prompt_renderer(config.task, tokenizer)
    except PromptStyleError as error:
        raise ConfigError(str(error).splitlines()) from error
    encode = prompt_encoder(tokenizer)
    prompts = {name: eval_prompts(of_set, config.eval, encode, render) for name, of_set in problems.items()}
    max_new_tokens = config.eval.limit_new_tokens(config.rollout.max_new_tokens)
    room = config.model.max_model_len - max_new_tokens
    longest = {name: max(len(prompt.token_ids) for prompt in of_set) for name, of_set in prompts.items()}
    wrong = [
        f"model.max_model_len={config.model.max_model_len}: the longest prompt of {name} has {length} tokens, which "
        f"with max_new_tokens={max_new_tokens} needs {length + max_new_tokens}; raise it or lower max_new_tokens"
        for name, length in longest.items()
        if length > room
    ]
    if wrong:
        raise ConfigError(wrong)
    return prompts


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting that changes a number, with `auto` resolved unless the device decides it.

    The folder stores them, and a resume must have the same. Without those of the cluster, the number of engines and
    time-outs, which do not change the numbers.
    """
    evaluation, task = config.eval, config.task
    settings: dict[str, Any] = {
        "model.path": config.model.path,
        "model.weights": weights_digest(config.model),
        "model.max_model_len": config.model.max_model_len,
        "task": task.name,
        "eval.num_prompts": evaluation.num_prompts,
        "eval.samples": evaluation.samples,
        "eval.temperature": evaluation.temperature,
        "eval.top_p": evaluation.top_p,
        "eval.max_new_tokens": evaluation.limit_new_tokens(config.rollout.max_new_tokens),
        "eval.seed": evaluation.seed,
        "rollout.dtype": config.rollout.dtype,
    }
    if task.prompt is not None:
        settings |= {f"task.prompt.{name}": value for name, value in task.prompt.model_dump(mode="json").items()}
    return settings


def weights_digest(model: ModelConfig) -> str:
    """Digest that distinguishes models at the same path: 16 hex digits of the folder, or `hub` for a hub name."""
    if model.path == "embedded":
        return EmbeddedRecipe().hash()
    folder = Path(model.path)
    if not folder.is_dir():
        return "hub"
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            for place in range(SAMPLED_PLACES):
                file.seek(size * place // SAMPLED_PLACES)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def default_folder(settings: dict[str, Any]) -> Path:
    """The default folder, evals/<model>-<8 hex digits of the settings>, in which a repeated command finds its rows."""
    names = [part for part in Path(settings["model.path"]).parts if part.strip("/.")]
    model = re.sub(r"[^\w.-]+", "-", "-".join(names[-2:]))
    content = json.dumps({name: value for name, value in settings.items() if name != "model.weights"}, sort_keys=True)
    return ROOT / f"{model}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
